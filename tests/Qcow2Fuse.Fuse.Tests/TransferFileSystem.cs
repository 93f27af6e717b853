// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>A file of the host whose reads and writes are transfers, and which says what was asked of it.</summary>
internal sealed class TransferFileSystem : IFuseFileSystem, IDisposable
{
    private readonly string _path = Path.GetTempFileName();
    private readonly FileStream _file;

    public TransferFileSystem(int size)
    {
        _file = new FileStream(_path, FileMode.Open, FileAccess.ReadWrite);
        _file.SetLength(size);
    }

    public ConcurrentQueue<string> Calls { get; } = new();

    /// <summary>Whether it says what was asked of it.</summary>
    public bool KeepsCalls { get; init; } = true;

    public bool Refuses { get; set; }

    public bool IsZero { get; set; }

    public bool IsCached { get; set; }

    public bool Throws { get; set; }

    public bool ThrowsAtEnd { get; set; }

    public int Answer { get; set; }

    /// <summary>What transfers are about where it is not the file.</summary>
    public int? Descriptor { get; set; }

    /// <summary>Bytes by which transfers miss their place.</summary>
    public long Missing { get; set; }

    /// <summary>Called at the end of each transfer.</summary>
    public Action Ending { get; set; } = static () => { };

    public Func<bool> Syncing { get; set; } = static () => true;

    public bool TryBeginTransfer(ulong node, ulong handle, long offset, FuseTransfer transfer)
    {
        if (Throws)
            throw new InvalidOperationException("at the beginning");
        if (Refuses)
            return false;
        Note(transfer.IsWrite ? "begin write" : "begin read");
        transfer.Kind = IsZero ? FuseTransferKind.Zeroes : FuseTransferKind.File;
        transfer.Descriptor = IsZero ? -1 : Descriptor ?? (int)_file.SafeFileHandle.DangerousGetHandle();
        transfer.Offset = offset + Missing;
        transfer.IsCached = IsCached;
        return true;
    }

    public void EndTransfer(FuseTransfer transfer, bool isDone)
    {
        Ending();
        if (ThrowsAtEnd)
            throw new InvalidOperationException("at the end");
        Note(isDone ? "done" : "not done");
    }

    public int Read(ulong node, ulong handle, long offset, Span<byte> destination)
    {
        Note("read");
        return Answer < 0 ? Answer : RandomAccess.Read(_file.SafeFileHandle, destination, offset);
    }

    public int Write(ulong node, ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind)
    {
        Note((kind & FuseWriteKind.Synchronous) == FuseWriteKind.Synchronous ? "write synchronously" : "write");
        if (Answer < 0)
            return Answer;
        RandomAccess.Write(_file.SafeFileHandle, source, offset);
        return source.Length;
    }

    public int Fsync(ulong node, ulong handle, bool dataOnly) => Syncing() ? 0 : -Errno.EBUSY;

    public int Lookup(ulong parent, ReadOnlySpan<byte> name, out FuseAttributes attributes)
    {
        attributes = default;
        return -Errno.ENOENT;
    }

    public int GetAttributes(ulong node, out FuseAttributes attributes)
    {
        attributes = default;
        return -Errno.ENOENT;
    }

    public int Open(ulong node, FuseOpenRequest request, out FuseOpenResult result)
    {
        result = default;
        return -Errno.ENOENT;
    }

    public int GetStatistics(ulong node, out FuseStatistics statistics)
    {
        statistics = default;
        return -Errno.ENOSYS;
    }

    public int ReadDirectory(ulong node, ulong handle, long offset, ref FuseDirectoryWriter entries) =>
        -Errno.ENOTDIR;

    private void Note(string call)
    {
        if (KeepsCalls)
            Calls.Enqueue(call);
    }

    public void Dispose()
    {
        _file.Dispose();
        File.Delete(_path);
    }
}
