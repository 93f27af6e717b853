// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>A file system whose answers are what a test says, exceptions among them.</summary>
internal sealed class FailingFileSystem : IFuseFileSystem
{
    public Func<int> Answer { get; set; } = () => 0;

    public int Lookup(ulong parent, ReadOnlySpan<byte> name, out FuseAttributes attributes)
    {
        attributes = default;
        return Answer();
    }

    public int GetAttributes(ulong node, out FuseAttributes attributes)
    {
        attributes = default;
        return Answer();
    }

    public int Open(ulong node, FuseOpenRequest request, out FuseOpenResult result)
    {
        result = default;
        return Answer();
    }

    public int Read(ulong node, ulong handle, long offset, Span<byte> destination) => Answer();

    public int Write(ulong node, ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind) => Answer();

    public int Fsync(ulong node, ulong handle, bool dataOnly) => Answer();

    public long CopyRange(in FuseFilePlace source, in FuseFilePlace destination, long length) => Answer();

    public long Seek(ulong node, ulong handle, long offset, FuseSeekKind kind) => Answer();

    public int GetStatistics(ulong node, out FuseStatistics statistics)
    {
        statistics = default;
        return Answer();
    }

    public int ReadDirectory(ulong node, ulong handle, long offset, ref FuseDirectoryWriter entries) => Answer();
}
