// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Formats.Raw;
using Qcow2Fuse.Protocols.Files;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

public sealed class ImageOpenerTests : IDisposable
{
    private readonly ScratchDirectory _scratch = new();
    private readonly ImageOpener _opener = new(new FileStorage(), [new TestFormat(), new RawFormat()]);
    private readonly int _openAtStart;

    public ImageOpenerTests() => _openAtStart = OpenInScratch();

    public void Dispose() => _scratch.Dispose();

    [Fact]
    public void An_image_is_recognised_by_its_magic_and_opened_for_writing()
    {
        using OpenedImage image = Open(Make("a.test"));
        Assert.False(image.ReadOnly);
        Assert.Empty(image.Messages);
        Assert.Equal([new ImageLayer(_scratch.At("a.test"), "test", null)], image.Layers);
    }

    [Fact]
    public void Raw_is_never_guessed_but_opened_when_asked_for()
    {
        string path = _scratch.NewFile(1000);
        BlockException failure = ShouldFail(BlockErrorKind.InvalidFormat, () => Open(path));
        Assert.Equal(FailureCode.NoKnownFormat, failure.Cause?.Code);
        using OpenedImage image = _opener.Open(new ImageOpenOptions { Path = path, Format = "raw" });
        Assert.Equal(1000, image.Device.Length);
        Assert.IsType<RawDevice>(image.Device);
    }

    [Fact]
    public void A_format_that_does_not_exist_is_named()
    {
        string path = Make("a.test");
        BlockException failure = ShouldFail(
            BlockErrorKind.UnsupportedFeature,
            () => _opener.Open(new ImageOpenOptions { Path = path, Format = "vm\u001bdk" }));
        Assert.Equal($@"{path}: the format 'vm\x1bdk' is not known, only test, raw", failure.Message);
    }

    [Fact]
    public void A_chain_is_opened_to_its_end_and_backing_files_read_only()
    {
        File.WriteAllText(_scratch.At("base.raw"), "0123456789");
        Make("mid.test", "backing=base.raw", "backing-format=raw");
        string top = Make("top.test", "backing=mid.test", "backing-format=test");
        using OpenedImage image = Open(top);
        Assert.Equal(["top.test", "mid.test", "base.raw"], image.Layers.Select(l => Path.GetFileName(l.Path)));
        Assert.Equal(["test", "test", "raw"], image.Layers.Select(l => l.Format));
        BlockDevice mid = BackingChain.Below(image.Device)!;
        BlockDevice low = BackingChain.Below(mid)!;
        Assert.True(mid.IsReadOnly);
        Assert.True(low.IsReadOnly);
        Assert.Null(BackingChain.Below(low));
        Assert.Equal("0123456789"u8.ToArray(), ReadAll(low));
        Assert.Equal(
            new Extent(4, 6, ExtentKind.Data, HostOffset: 4, Depth: 2),
            BackingChain.GetExtent(image.Device, 4, image.Device.Length - 4));
        Extent beyond = BackingChain.GetExtent(image.Device, 10, image.Device.Length - 10);
        Assert.Equal((ExtentKind.Unallocated, 10L), (beyond.Kind, beyond.Offset));
    }

    [Fact]
    public void A_backing_file_without_a_format_needs_the_users_word()
    {
        _ = Make("base.test");
        string top = Make("top.test", "backing=base.test");
        BlockException failure = ShouldFail(BlockErrorKind.Policy, () => Open(top));
        Assert.Equal(
            new FailureCause(FailureCode.BackingFormatUnstated) { File = top, Name = "base.test" }, failure.Cause);
        using OpenedImage image = _opener.Open(new ImageOpenOptions { Path = top, BackingFormat = "raw" });
        Assert.IsType<RawDevice>(BackingChain.Below(image.Device));
    }

    [Fact]
    public void A_missing_backing_file_shows_the_chain_and_how_to_repair_it()
    {
        string mid = Make("mid's.test", "backing=gone/base.raw", "backing-format=raw");
        string top = Make("top.test", "backing=mid's.test", "backing-format=test");
        BlockException failure = ShouldFail(BlockErrorKind.NotFound, () => Open(top));
        Assert.Equal(
            $"{mid}: the backing file 'gone/base.raw' is missing (top.test <- mid's.test <- base.raw \u2717)",
            failure.Message);
        Assert.Equal(
            new FailureCause(FailureCode.BackingMissing) { File = mid, Name = "raw", Layer = 1 }, failure.Cause);
        NothingShouldBeOpen();
    }

    [Fact]
    public void The_user_can_name_another_backing_file_or_none()
    {
        File.WriteAllText(_scratch.At("other.raw"), "other");
        string top = Make("top.test", "backing=/nowhere/base", "backing-format=raw");
        Dictionary<int, string> files = new() { [0] = _scratch.At("other.raw") };
        using (OpenedImage image = _opener.Open(new ImageOpenOptions { Path = top, BackingFiles = files }))
        {
            Assert.Equal("other"u8.ToArray(), ReadAll(BackingChain.Below(image.Device)!));
        }

        using (OpenedImage image = _opener.Open(new ImageOpenOptions { Path = top, NoBacking = true }))
            Assert.Null(BackingChain.Below(image.Device));
    }

    [Theory]
    [InlineData("", "is empty, not an image", FailureCode.NotAnImage)]
    [InlineData("1F8B0800", "is a gzip file, not an image", FailureCode.Packed)]
    [InlineData("FD377A585A00", "is an xz file, not an image", FailureCode.Packed)]
    [InlineData("28B52FFD", "is a zstd file, not an image", FailureCode.Packed)]
    [InlineData("504B0304", "is a zip archive, not an image", FailureCode.Packed)]
    [InlineData("0A3C21444F43", "is a page of the web (HTML or XML), not an image", FailureCode.NotAnImage)]
    [InlineData("00", "is not an image of a known format", FailureCode.NoKnownFormat)]
    public void A_file_that_is_no_image_is_called_what_it_is(string head, string expected, FailureCode code)
    {
        string path = _scratch.At("odd");
        File.WriteAllBytes(path, [.. Convert.FromHexString(head), .. new byte[head.Length == 0 ? 0 : 700]]);
        BlockException failure = ShouldFail(BlockErrorKind.InvalidFormat, () => Open(path));
        Assert.Equal(($"{path}: {expected}", code), (failure.Message, failure.Cause!.Code));
    }

    [Fact]
    public void An_OVA_is_called_an_archive()
    {
        string path = _scratch.At("odd.ova");
        byte[] content = new byte[1024];
        "ustar"u8.CopyTo(content.AsSpan(257));
        File.WriteAllBytes(path, content);
        BlockException failure = ShouldFail(BlockErrorKind.InvalidFormat, () => Open(path));
        Assert.EndsWith("is a tar archive (an OVA is one), not an image", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_user_can_name_the_backing_file_of_one_layer_and_loses_none()
    {
        File.WriteAllText(_scratch.At("other.raw"), "other");
        string mid = Make("mid.test", "backing=json:{}", "backing-format=raw");
        string top = Make("top.test", "backing=mid.test", "backing-format=test");
        BlockException refused = ShouldFail(BlockErrorKind.Policy, () => Open(top));
        Assert.Equal((FailureCode.NameRefused, 1), (refused.Cause!.Code, refused.Cause.Layer));
        using OpenedImage image = _opener.Open(new ImageOpenOptions
        {
            Path = top,
            BackingFiles = new Dictionary<int, string> { [1] = _scratch.At("other.raw") },
        });
        Assert.Equal([top, mid, _scratch.At("other.raw")], image.Layers.Select(static layer => layer.Path));
    }

    [Fact]
    public void A_format_can_be_said_for_the_backing_file_of_one_layer()
    {
        File.WriteAllText(_scratch.At("base.raw"), "base");
        _ = Make("mid.test", "backing=base.raw");
        string top = Make("top.test", "backing=mid.test", "backing-format=test");
        BlockException failure = ShouldFail(BlockErrorKind.Policy, () => Open(top));
        Assert.Equal((FailureCode.BackingFormatUnstated, 1), (failure.Cause!.Code, failure.Cause.Layer));
        using OpenedImage image = _opener.Open(new ImageOpenOptions
        {
            Path = top,
            BackingFormats = new Dictionary<int, string> { [1] = "raw" },
        });
        Assert.Equal(3, image.Layers.Count);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_choice_for_a_layer_that_does_not_exist_is_refused(bool isFile)
    {
        File.WriteAllText(_scratch.At("base.raw"), "base");
        string top = Make("top.test", "backing=base.raw", "backing-format=raw");
        Dictionary<int, string> choices = new() { [2] = isFile ? _scratch.At("base.raw") : "raw" };
        ImageOpenOptions options = new() { Path = top };
        options = isFile ? options with { BackingFiles = choices } : options with { BackingFormats = choices };
        BlockException failure = ShouldFail(BlockErrorKind.NotFound, () => _opener.Open(options));
        Assert.EndsWith("only the layers 0 to 1", failure.Message, StringComparison.Ordinal);
        NothingShouldBeOpen();
    }

    [Theory]
    [InlineData("a.test", "a.test")]
    [InlineData("a.test", "b.test")]
    public void A_loop_is_refused(string top, string other)
    {
        _ = Make(top, $"backing={other}", "backing-format=test");
        if (other != top)
            _ = Make(other, $"backing={top}", "backing-format=test");
        foreach (bool readOnly in new[] { true, false })
        {
            BlockException failure = ShouldFail(
                BlockErrorKind.Policy,
                () => _opener.Open(new ImageOpenOptions { Path = _scratch.At(top), ReadOnly = readOnly }));
            Assert.Contains("occurs twice", failure.Message, StringComparison.Ordinal);
        }

        NothingShouldBeOpen();
    }

    [Fact]
    public void A_hard_link_to_the_image_is_no_data_file()
    {
        string top = Make("a.test", "data=same");
        using (System.Diagnostics.Process link =
            System.Diagnostics.Process.Start("ln", [top, _scratch.At("same")]))
        {
            link.WaitForExit();
        }

        ShouldFail(BlockErrorKind.Policy, () => Open(top));
        NothingShouldBeOpen();
    }

    [Fact]
    public void A_chain_is_only_opened_so_deep()
    {
        for (int i = 1; i <= 64; i++)
            _ = Make($"{i}.test", $"backing={i + 1}.test", "backing-format=test");
        _ = Make("65.test");
        ShouldFail(BlockErrorKind.TooLarge, () => Open(_scratch.At("1.test")));
        NothingShouldBeOpen();
        using OpenedImage image = Open(_scratch.At("2.test"));
        Assert.Equal(64, image.Layers.Count);
    }

    [Fact]
    public void A_data_file_is_opened_with_its_image()
    {
        File.WriteAllText(_scratch.At("data.raw"), "data");
        string top = Make("a.test", "data=data.raw");
        using (OpenedImage image = Open(top))
        {
            Assert.Equal(_scratch.At("data.raw"), image.Layers[0].DataFile);
            Assert.False(((TestDevice)image.Device).Arguments.DataFile!.IsReadOnly);
        }

        using (OpenedImage image = _opener.Open(new ImageOpenOptions { Path = top, ReadOnly = true }))
            Assert.True(((TestDevice)image.Device).Arguments.DataFile!.IsReadOnly);
    }

    [Fact]
    public void The_user_can_name_a_data_file_anywhere_if_the_image_has_one()
    {
        using ScratchDirectory elsewhere = new();
        File.WriteAllText(elsewhere.At("data.raw"), "data");
        string unnamed = Make("a.test", "data=");
        BlockException failure = ShouldFail(BlockErrorKind.NotFound, () => Open(unnamed));
        Assert.Equal(FailureCode.DataFileUnnamed, failure.Cause?.Code);
        ImageOpenOptions options = new() { Path = unnamed, DataFile = elsewhere.At("data.raw") };
        using (OpenedImage image = _opener.Open(options))
            Assert.Equal(elsewhere.At("data.raw"), image.Layers[0].DataFile);
        string plain = Make("b.test");
        ShouldFail(BlockErrorKind.NotSupported, () => _opener.Open(options with { Path = plain }));
    }

    [Fact]
    public void An_image_that_must_not_be_written_is_refused_for_writing_only()
    {
        string path = Make("a.test", "refuse=is marked corrupt");
        BlockException failure = ShouldFail(BlockErrorKind.ReadOnly, () => Open(path));
        Assert.Equal(($"{path}: is marked corrupt", FailureCode.Damaged), (failure.Message, failure.Cause?.Code));
        using OpenedImage image = _opener.Open(new ImageOpenOptions { Path = path, ReadOnly = true });
        Assert.True(image.ReadOnly);
    }

    [Fact]
    public void An_image_that_would_lose_something_is_opened_read_only_unless_the_user_allows_it()
    {
        string path = Make("a.test", "loses=bitmap 'a' has unknown flags");
        using (OpenedImage image = Open(path))
        {
            Assert.True(image.ReadOnly);
            ImageMessage message = Assert.Single(image.Messages);
            Assert.Equal($"{path}: is opened read-only: bitmap 'a' has unknown flags", message.Text);
            Assert.Equal(FailureCode.BitmapsAtStake, message.Cause?.Code);
        }

        using OpenedImage allowed = _opener.Open(new ImageOpenOptions { Path = path, AllowLoss = true });
        Assert.False(allowed.ReadOnly);
        Assert.Empty(allowed.Messages);
        Assert.True(Assert.IsType<TestDevice>(allowed.Device).Arguments.AllowLoss);
    }

    [Theory]
    [InlineData(BlockErrorKind.PermissionDenied)]
    [InlineData(BlockErrorKind.ReadOnly)]
    public void A_file_that_cannot_be_written_is_opened_read_only_with_a_message(BlockErrorKind kind)
    {
        string path = Make("a.test");
        ImageOpener opener = new(new UnwritableStorage(kind), [new TestFormat()]);
        using (OpenedImage image = opener.Open(new ImageOpenOptions { Path = path }))
        {
            Assert.True(image.ReadOnly);
            Assert.Equal([new ImageMessage($"{path}: no writing; it is opened read-only", null)], image.Messages);
        }

        using (OpenedImage image = opener.Open(new ImageOpenOptions { Path = path, ReadOnly = true }))
            Assert.Empty(image.Messages);
    }

    [Fact]
    public void Other_failures_to_open_for_writing_are_failures()
    {
        string path = Make("a.test");
        ImageOpener opener = new(new UnwritableStorage(BlockErrorKind.Io), [new TestFormat()]);
        ShouldFail(BlockErrorKind.Io, () => opener.Open(new ImageOpenOptions { Path = path }));
    }

    [Fact]
    public void With_write_through_every_write_is_flushed()
    {
        foreach (CacheMode cache in new[] { CacheMode.Writethrough, CacheMode.DirectSync })
        {
            string path = Make("a.test");
            using OpenedImage image = _opener.Open(new ImageOpenOptions { Path = path, Cache = cache });
            Assert.IsType<WriteThroughFilter>(image.Device);
        }
    }

    [Fact]
    public void Force_share_is_for_looking_only()
    {
        string path = Make("a.test");
        ShouldFail(
            BlockErrorKind.NotSupported,
            () => _opener.Open(new ImageOpenOptions { Path = path, ForceShare = true }));
    }

    [Fact]
    public void When_a_format_fails_to_open_everything_is_closed_again()
    {
        File.WriteAllText(_scratch.At("data.raw"), "data");
        _ = Make("base.test");
        string path = Make("a.test", "fail=1", "data=data.raw", "backing=base.test", "backing-format=test");
        ShouldFail(BlockErrorKind.Corrupt, () => Open(path));
        NothingShouldBeOpen();
        _ = Make("low.test", "fail=1");
        path = Make("b.test", "data=data.raw", "backing=low.test", "backing-format=test");
        ShouldFail(BlockErrorKind.Corrupt, () => Open(path));
        NothingShouldBeOpen();
    }

    [Fact]
    public void Disposing_the_image_closes_every_file()
    {
        File.WriteAllText(_scratch.At("data.raw"), "data");
        _ = Make("base.test");
        string path = Make("a.test", "data=data.raw", "backing=base.test", "backing-format=test");
        Open(path).Dispose();
        NothingShouldBeOpen();
    }

    private OpenedImage Open(string path) => _opener.Open(new ImageOpenOptions { Path = path });

    private string Make(string name, params string[] lines)
    {
        File.WriteAllText(_scratch.At(name), TestFormat.Image(lines));
        return _scratch.At(name);
    }

    private void NothingShouldBeOpen() => Assert.Equal(_openAtStart, OpenInScratch());

    private sealed class UnwritableStorage(BlockErrorKind kind) : IStorageOpener
    {
        private readonly FileStorage _files = new();

        public IStorageFile OpenNamed(string path, StorageAccess access) => access.ReadOnly
            ? _files.OpenNamed(path, access)
            : throw new BlockException(kind, $"{path}: no writing");

        public IStorageFile Reopen(IStorageFile file, StorageAccess access) => _files.Reopen(file, access);

        public IStorageFile OpenReference(StorageReference reference, StorageAccess access) =>
            _files.OpenReference(reference, access);
    }

    /// <summary>How many descriptors of this process lead into the scratch directory.</summary>
    private int OpenInScratch() => new DirectoryInfo("/proc/self/fd").EnumerateFiles()
        .Count(fd => fd.LinkTarget?.StartsWith(_scratch.Path, StringComparison.Ordinal) == true);
}
