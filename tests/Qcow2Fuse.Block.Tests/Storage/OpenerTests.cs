// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Storage;

/// <summary>Files are opened by whoever the storage is given for it, and by nobody else.</summary>
public sealed class OpenerTests : IDisposable
{
    private readonly ScratchDirectory _scratch = new();

    public OpenerTests()
    {
        Directory.CreateDirectory(_scratch.At("images/sub"));
        File.WriteAllText(_scratch.At("images/top"), "top");
        File.WriteAllText(_scratch.At("images/sub/base"), "base");
    }

    public void Dispose() => _scratch.Dispose();

    [Fact]
    public void All_names_are_looked_up_by_the_opener()
    {
        Recorder opener = new();
        FileStorage storage = new(opener: opener);
        IStorageFile top = storage.OpenNamed(_scratch.At("images/top"), default);
        using BlockDevice image = top.Device;
        IStorageFile below = storage.OpenReference(
            new StorageReference(top, "sub/base", ReferenceKind.Backing, []), new StorageAccess(true, false));
        using (below.Device)
        {
            byte[] content = new byte[4];
            below.Device.Read(0, content);
            Assert.Equal("base", Encoding.ASCII.GetString(content));
        }

        using BlockDevice again = storage.Reopen(top, new StorageAccess(true, false)).Device;
        Assert.Equal(["open images", "top", "below sub", "below base", "reopen"], opener.Asked);
    }

    [Fact]
    public void What_the_opener_refuses_is_not_opened_another_way()
    {
        FileStorage storage = new(opener: new Recorder { Refuses = true });
        BlockException exception =
            Assert.Throws<BlockException>(() => storage.OpenNamed(_scratch.At("images/top"), default));
        Assert.Equal(BlockErrorKind.PermissionDenied, exception.Kind);
    }

    [Fact]
    public void A_directory_of_images_is_opened_by_it_too()
    {
        Recorder opener = new();
        using (ImageFolder folder = ImageFolder.Open(_scratch.At("images"), isShared: false, [], opener))
        {
            FileStorage storage = new(keeper: null, folder, opener);
            StorageAccess access = new(ReadOnly: true, Direct: false);
            using BlockDevice image = storage.OpenNamed(_scratch.At("images/top"), access).Device;
            Assert.Equal(["top"], folder.Names(bytesMax: 1 << 20, out _));
        }

        Assert.Equal(["open images", "top", ".", "."], opener.Asked);
    }

    private sealed class Recorder : IOpener
    {
        public List<string> Asked { get; } = [];

        public bool Refuses { get; init; }

        public int Open(string path, int flags) =>
            Ask($"open {Path.GetFileName(path)}", () => SystemOpener.Instance.Open(path, flags));

        public int OpenIn(int directory, string name, int flags, uint mode = 0) =>
            Ask(name, () => SystemOpener.Instance.OpenIn(directory, name, flags, mode));

        public int OpenBelow(int directory, string path, int flags, ResolveFlags rules) =>
            Ask($"below {path}", () => SystemOpener.Instance.OpenBelow(directory, path, flags, rules));

        public int Reopen(int descriptor, int flags) =>
            Ask("reopen", () => SystemOpener.Instance.Reopen(descriptor, flags));

        public int Unlink(int directory, string name) =>
            Ask($"unlink {name}", () => SystemOpener.Instance.Unlink(directory, name));

        private int Ask(string question, Func<int> open)
        {
            Asked.Add(question);
            return Refuses ? -Errno.EACCES : open();
        }
    }
}
