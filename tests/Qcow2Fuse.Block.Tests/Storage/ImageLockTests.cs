// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

public sealed class ImageLockTests : IDisposable
{
    private readonly ScratchDirectory _scratch = new();

    public void Dispose() => _scratch.Dispose();

    public static TheoryData<string, bool, string, bool> Matrix
    {
        get
        {
            string[] programs = ["ours", "qemu-io", "qemu-storage-daemon"];
            TheoryData<string, bool, string, bool> cells = [];
            foreach (string holder in programs)
            {
                foreach (string taker in programs.Where(taker => holder == "ours" || taker == "ours"))
                {
                    for (int modes = 0; modes < 4; modes++)
                        cells.Add(holder, (modes & 1) != 0, taker, (modes & 2) != 0);
                }
            }

            return cells;
        }
    }

    [SkippableTheory]
    [MemberData(nameof(Matrix))]
    public void Readers_share_an_image_and_a_writer_is_alone(
        string holder, bool holderReads, string taker, bool takerReads)
    {
        string image = CreateImage();
        using (IDisposable? first = TryOpen(holder, image, holderReads))
        {
            Assert.NotNull(first);
            using IDisposable? second = TryOpen(taker, image, takerReads);
            Assert.Equal(holderReads && takerReads, second is not null);
        }

        using IDisposable? third = TryOpen(taker, image, takerReads);
        Assert.NotNull(third);
    }

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public void The_locked_bytes_are_those_that_QEMU_locks(bool readOnly)
    {
        ToolRequirement.Require("qemu-io");
        ToolRequirement.Require("qemu-img");
        (string Path, ImageLockMode Mode, bool ReadOnly)[] files =
        [
            (_scratch.At("top"), readOnly ? ImageLockMode.Reader : ImageLockMode.Writer, readOnly),
            (_scratch.At("middle"), ImageLockMode.Reader, true),
            (_scratch.At("base"), ImageLockMode.RawBacking, true),
            (_scratch.At("with-data"), readOnly ? ImageLockMode.Reader : ImageLockMode.Writer, readOnly),
            (_scratch.At("data"), readOnly ? ImageLockMode.DataReader : ImageLockMode.DataWriter, readOnly),
        ];
        QemuHolder.CreateImage("-f", "raw", files[2].Path, "1M");
        QemuHolder.CreateImage("-f", "qcow2", "-b", "base", "-F", "raw", files[1].Path);
        QemuHolder.CreateImage("-f", "qcow2", "-b", "middle", "-F", "qcow2", files[0].Path);
        QemuHolder.CreateImage("-f", "qcow2", "-o", $"data_file={files[4].Path}", files[3].Path, "1M");
        foreach (string image in new[] { files[0].Path, files[3].Path })
        {
            using QemuHolder? qemu = QemuHolder.TryStart("qemu-io", image, readOnly);
            Assert.NotNull(qemu);
            foreach ((string path, ImageLockMode mode, bool fileReadOnly) in files)
            {
                SortedSet<long> theirs = QemuHolder.LockedBytes(qemu.ProcessId, path);
                if (theirs.Count > 0)
                    Assert.Equal(theirs, BytesOf(mode));
            }
        }

        foreach ((string path, ImageLockMode mode, bool fileReadOnly) in files)
        {
            using FileDevice device = FileDevice.Open(path, fileReadOnly);
            device.Lock(mode);
            Assert.Equal(BytesOf(mode), QemuHolder.LockedBytes(Environment.ProcessId, path));
        }
    }

    [SkippableFact]
    public void The_message_names_the_program_that_holds_the_image()
    {
        string image = CreateImage();
        using QemuHolder? qemu = QemuHolder.TryStart("qemu-io", image, readOnly: false);
        Assert.NotNull(qemu);
        using FileDevice device = FileDevice.Open(image);
        BlockException failure = ShouldFail(BlockErrorKind.Locked, () => device.Lock(ImageLockMode.Writer));
        string id = qemu.ProcessId.ToString(CultureInfo.InvariantCulture);
        Assert.Equal($"{image}: is in use by qemu-io (pid {id})", failure.Message);
        Assert.Equal(new FailureCause(FailureCode.InUse) { Process = qemu.ProcessId }, failure.Cause);
    }

    [Fact]
    public void A_refused_lock_leaves_nothing_behind()
    {
        string path = _scratch.NewFile(4096);
        using FileDevice reader = FileDevice.Open(path, readOnly: true);
        reader.Lock(ImageLockMode.Reader);
        using (FileDevice writer = FileDevice.Open(path))
        {
            ShouldFail(BlockErrorKind.Locked, () => writer.Lock(ImageLockMode.Writer));
            using FileDevice other = FileDevice.Open(path, readOnly: true);
            other.Lock(ImageLockMode.Reader);
        }
    }

    /// <summary>Such as a program has that another thread is starting.</summary>
    [Fact]
    public void A_copy_of_the_descriptor_holds_no_locks_of_a_closed_file()
    {
        string path = _scratch.NewFile(4096);
        FileDevice first = FileDevice.Open(path);
        first.Lock(ImageLockMode.Writer);
        int copy = FuseDevice.Duplicate(first.Descriptor);
        Assert.InRange(copy, 0, int.MaxValue);
        try
        {
            using FileDevice second = FileDevice.Open(path);
            ShouldFail(BlockErrorKind.Locked, () => second.Lock(ImageLockMode.Writer));
            first.Dispose();
            second.Lock(ImageLockMode.Writer);
        }
        finally
        {
            _ = LinuxFile.Close(copy);
        }
    }

    [Fact]
    public void Overlays_may_share_a_backing_file_but_not_with_its_writer()
    {
        string path = _scratch.NewFile(4096);
        using FileDevice first = FileDevice.Open(path, readOnly: true);
        using FileDevice second = FileDevice.Open(path, readOnly: true);
        first.Lock(ImageLockMode.Reader);
        second.Lock(ImageLockMode.RawBacking);
        using FileDevice writer = FileDevice.Open(path);
        ShouldFail(BlockErrorKind.Locked, () => writer.Lock(ImageLockMode.Writer));
    }

    [Fact]
    public void The_opener_locks_what_it_opens_unless_told_not_to()
    {
        string path = _scratch.At("a.test");
        File.WriteAllText(path, TestFormat.Image());
        ImageOpener opener = new(new FileStorage(), [new TestFormat()]);
        ImageOpenOptions writing = new() { Path = path };
        ImageOpenOptions reading = writing with { ReadOnly = true };
        using (opener.Open(writing))
        {
            ShouldFail(BlockErrorKind.Locked, () => opener.Open(writing));
            ShouldFail(BlockErrorKind.Locked, () => opener.Open(reading));
            opener.Open(reading with { ForceShare = true }).Dispose();

            // Locks are not what keeps one process from writing it twice.
            ShouldFail(BlockErrorKind.Locked, () => opener.Open(writing with { NoLock = true }));
        }

        using (TryOpen("ours", path, readOnly: false))
            opener.Open(writing with { NoLock = true }).Dispose();

        using (opener.Open(reading))
        {
            opener.Open(reading).Dispose();
            ShouldFail(BlockErrorKind.Locked, () => opener.Open(writing));
        }

        opener.Open(writing).Dispose();
    }

    private static SortedSet<long> BytesOf(ImageLockMode mode)
    {
        SortedSet<long> bytes = [];
        for (int n = 0; n < 4; n++)
        {
            if (((int)mode.Held >> n & 1) != 0)
                bytes.Add(100 + n);
            if (((int)mode.Unshared >> n & 1) != 0)
                bytes.Add(200 + n);
        }

        return bytes;
    }

    private string CreateImage()
    {
        ToolRequirement.Require("qemu-img");
        ToolRequirement.Require("qemu-io");
        ToolRequirement.Require("qemu-storage-daemon");
        string image = _scratch.At("image.qcow2");
        QemuHolder.CreateImage("-f", "qcow2", image, "4M");
        return image;
    }

    private static IDisposable? TryOpen(string program, string image, bool readOnly)
    {
        if (program != "ours")
            return QemuHolder.TryStart(program, image, readOnly);
        FileDevice device = FileDevice.Open(image, readOnly);
        try
        {
            device.Lock(readOnly ? ImageLockMode.Reader : ImageLockMode.Writer);
            return device;
        }
        catch (BlockException e) when (e.Kind == BlockErrorKind.Locked)
        {
            device.Dispose();
            return null;
        }
    }
}
