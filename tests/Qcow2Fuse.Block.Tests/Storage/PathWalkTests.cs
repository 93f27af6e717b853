// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Formats.Raw;
using Qcow2Fuse.Protocols.Files;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

/// <summary>
/// Paths are walked once: what becomes of a name after a file was found by it moves nothing. <c>images/sub/mid</c> is
/// an image that names <c>base</c>; <c>vault/base</c> is what somebody who may rename things in <c>images</c> wants it
/// to mean.
/// </summary>
public sealed class PathWalkTests : IDisposable
{
    private static readonly StorageAccess Reading = new(ReadOnly: true, Direct: false);
    private static readonly StorageAccess Writing = new(ReadOnly: false, Direct: false);

    private readonly ScratchDirectory _scratch = new();
    private readonly FileStorage _storage = new();

    public PathWalkTests()
    {
        Directory.CreateDirectory(_scratch.At("images/sub"));
        Directory.CreateDirectory(_scratch.At("vault"));
        File.WriteAllText(_scratch.At("images/top"), "top");
        File.WriteAllText(_scratch.At("images/sub/mid"), "mid");
        File.WriteAllText(_scratch.At("images/sub/base"), "base");
        File.WriteAllText(_scratch.At("vault/base"), "secret");
        File.WriteAllText(_scratch.At("vault/mid"), "secret");
    }

    public void Dispose() => _scratch.Dispose();

    [Theory]
    [InlineData(ReferenceKind.Backing)]
    [InlineData(ReferenceKind.DataFile)]
    public void The_directory_of_an_image_that_was_named_is_not_looked_up_again(ReferenceKind kind)
    {
        using FileDevice image = Named("images/sub/mid");
        Swap("images/sub");
        Assert.Equal("base", Read(Referenced(image, "base", kind)));
    }

    [Theory]
    [InlineData(ReferenceKind.Backing)]
    [InlineData(ReferenceKind.DataFile)]
    public void The_directory_of_an_image_that_an_image_named_is_not_looked_up_again(ReferenceKind kind)
    {
        using FileDevice top = Named("images/top");
        using FileDevice mid = Referenced(top, "sub/mid");
        Swap("images/sub");
        Assert.Equal("base", Read(Referenced(mid, "base", kind)));

        // The same by the absolute name.
        if (kind == ReferenceKind.Backing)
            Assert.Equal("base", Read(Referenced(mid, _scratch.At("images/sub/base"))));
    }

    [Fact]
    public void The_directory_of_an_image_in_an_allowed_directory_is_not_looked_up_again()
    {
        Directory.CreateDirectory(_scratch.At("allowed/deep"));
        File.WriteAllText(_scratch.At("allowed/deep/mid"), "mid");
        File.WriteAllText(_scratch.At("allowed/deep/base"), "base");
        using FileDevice top = Named("images/top");
        using FileDevice mid = (FileDevice)_storage.OpenReference(
            new StorageReference(top, "../allowed/deep/mid", ReferenceKind.Backing, [_scratch.At("allowed")]), Reading);
        Swap("allowed/deep");
        Assert.Equal("base", Read(Referenced(mid, "base")));
    }

    [Fact]
    public void What_a_link_in_place_of_a_backing_file_leads_to_names_files_beside_the_link()
    {
        Directory.CreateDirectory(_scratch.At("images/other"));
        File.WriteAllText(_scratch.At("images/other/target"), "target");
        File.WriteAllText(_scratch.At("images/other/base"), "wrong");
        File.CreateSymbolicLink(_scratch.At("images/sub/link"), "../other/target");
        using FileDevice top = Named("images/top");
        using FileDevice mid = Referenced(top, "sub/link");
        Assert.Equal("base", Read(Referenced(mid, "base")));
    }

    [Fact]
    public void A_file_opened_in_another_way_is_the_same_file()
    {
        FileDevice image = Named("images/sub/mid", Writing);
        StorageIdentity identity = image.Identity;
        Swap("images/sub");
        using FileDevice again = (FileDevice)_storage.Reopen(image, Reading);
        image.Dispose();
        Assert.Equal(identity, again.Identity);
        Assert.True(again.IsReadOnly);
        Assert.Equal("base", Read(Referenced(again, "base")));
    }

    [Fact]
    public void An_image_that_can_only_be_read_is_not_exchanged_for_another_while_that_is_found_out()
    {
        string path = _scratch.At("images/a.test");
        File.WriteAllText(path, TestFormat.Image("loses=bitmaps"));
        File.WriteAllText(_scratch.At("vault/a.test"), TestFormat.Image("fail=secret"));
        using OpenedImage image = new ImageOpener(
            new ExchangingStorage(path, _scratch.At("vault/a.test")), [new TestFormat()])
            .Open(new ImageOpenOptions { Path = path });
        Assert.True(image.ReadOnly);
    }

    [Fact]
    public void An_anchor_holds_the_file_and_not_its_name()
    {
        using FileDevice image = Named("images/sub/mid");
        using FileAnchor anchor = FileAnchor.Of(image);
        Swap("images/sub");
        Assert.Equal(image.HostIdentity, anchor.Identity);
        Assert.Equal("mid", Read(anchor.Open()));
        image.Dispose();
        Assert.Equal("mid", Read(anchor.Open()));
    }

    [Fact]
    public void An_open_chain_has_its_files_open_and_no_directories()
    {
        File.WriteAllText(_scratch.At("images/a.test"), TestFormat.Image("backing=sub/b.test", "backing-format=test"));
        File.WriteAllText(_scratch.At("images/sub/b.test"), TestFormat.Image("backing=base", "backing-format=raw"));
        using OpenedImage image = new ImageOpener(_storage, [new TestFormat(), new RawFormat()])
            .Open(new ImageOpenOptions { Path = _scratch.At("images/a.test") });
        string[] open =
        [
            .. new DirectoryInfo("/proc/self/fd").EnumerateFiles()
                .Select(static fd => fd.LinkTarget ?? "")
                .Where(target => target.StartsWith(_scratch.Path, StringComparison.Ordinal))
                .Order(StringComparer.Ordinal),
        ];
        Assert.Equal(
            [_scratch.At("images/a.test"), _scratch.At("images/sub/b.test"), _scratch.At("images/sub/base")], open);
    }

    [Fact]
    public void A_new_file_that_came_to_nothing_is_removed_but_not_what_got_its_name()
    {
        string path = _scratch.At("images/new");
        FileDevice.Create(path).Abandon();
        Assert.False(File.Exists(path));

        FileDevice replaced = FileDevice.Create(path);
        File.Move(_scratch.At("images/top"), path, overwrite: true);
        replaced.Abandon();
        Assert.Equal("top", File.ReadAllText(path));

        // A directory in the place of the one where it was made.
        FileDevice moved = FileDevice.Create(_scratch.At("images/sub/new"));
        File.WriteAllText(_scratch.At("vault/new"), "secret");
        Swap("images/sub");
        moved.Abandon();
        Assert.True(File.Exists(_scratch.At("vault/new")));
        Assert.False(File.Exists(_scratch.At("images/sub.away/new")));

        FileDevice.Create(path, replace: true).Abandon();
        Assert.True(File.Exists(path));
    }

    [Theory]
    [InlineData(".ssh/base")]
    [InlineData("sub/../.ssh/base")]
    [InlineData("./.ssh/base")]
    [InlineData("sub/.base")]
    [InlineData(".base")]
    [InlineData("..base")]
    [InlineData("{images}/.ssh/base")]
    public void Hidden_files_are_no_references_unless_their_directory_is_allowed(string name)
    {
        Directory.CreateDirectory(_scratch.At("images/.ssh"));
        foreach (string file in (string[])["images/.ssh/base", "images/sub/.base", "images/.base", "images/..base"])
            File.WriteAllText(_scratch.At(file), "hidden");
        string real = name.Replace("{images}", _scratch.At("images"), StringComparison.Ordinal);
        using FileDevice top = Named("images/top");
        foreach (ReferenceKind kind in Enum.GetValues<ReferenceKind>())
        {
            BlockException failure = ShouldFail(BlockErrorKind.Policy, () => Referenced(top, real, kind));
            Assert.Contains("hidden", failure.Message, StringComparison.Ordinal);
        }

        ShouldFail(BlockErrorKind.Policy, () => Allowed("images"));
        if (name.Contains(".ssh", StringComparison.Ordinal))
            Assert.Equal("hidden", Read(Allowed("images/.ssh")));

        FileDevice Allowed(string directory) => (FileDevice)_storage.OpenReference(
            new StorageReference(top, real, ReferenceKind.Backing, [_scratch.At(directory)]), Reading);
    }

    [Fact]
    public void An_image_in_a_hidden_directory_names_what_is_beside_it()
    {
        Directory.CreateDirectory(_scratch.At(".cache"));
        File.WriteAllText(_scratch.At(".cache/top"), "top");
        File.WriteAllText(_scratch.At(".cache/base"), "base");
        using FileDevice top = Named(".cache/top");
        Assert.Equal("base", Read(Referenced(top, "base")));
        Assert.Equal("base", Read(Referenced(top, _scratch.At(".cache/base"))));
    }

    private FileDevice Named(string name) => Named(name, Reading);

    private FileDevice Named(string name, StorageAccess access) =>
        (FileDevice)_storage.OpenNamed(_scratch.At(name), access);

    private FileDevice Referenced(FileDevice image, string name, ReferenceKind kind = ReferenceKind.Backing) =>
        (FileDevice)_storage.OpenReference(
            new StorageReference(image, name, kind, []), kind == ReferenceKind.Backing ? Reading : Writing);

    /// <summary>Puts a link to the vault in the place of a directory.</summary>
    private void Swap(string directory)
    {
        Directory.Move(_scratch.At(directory), _scratch.At(directory) + ".away");
        Directory.CreateSymbolicLink(_scratch.At(directory), _scratch.At("vault"));
    }

    private static string Read(BlockDevice device)
    {
        using (device)
            return Encoding.ASCII.GetString(ReadAll(device));
    }

    /// <summary>Another file takes the name as soon as the first one is open.</summary>
    private sealed class ExchangingStorage(string path, string other) : IStorageOpener
    {
        private readonly FileStorage _files = new();

        public IStorageFile OpenNamed(string named, StorageAccess access)
        {
            IStorageFile file = _files.OpenNamed(named, access);
            File.Move(other, path, overwrite: true);
            return file;
        }

        public IStorageFile Reopen(IStorageFile file, StorageAccess access) => _files.Reopen(file, access);

        public IStorageFile OpenReference(StorageReference reference, StorageAccess access) =>
            _files.OpenReference(reference, access);
    }
}
