// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>Requests on open files: each a call of the file system, and its answer as the reply's payload.</summary>
/// <param name="fileSystem">Serves them.</param>
/// <param name="unused">Called when the last open file was closed; or null.</param>
internal sealed unsafe class FileRequests(IFuseFileSystem fileSystem, Action? unused)
{
    private int _openFiles;

    /// <summary>Files that are open; directories are not counted.</summary>
    public int OpenFiles => Volatile.Read(ref _openFiles);

    /// <summary>Largest write in bytes that was agreed upon; 0 before INIT.</summary>
    public int MaxWrite { get; set; }

    public int Open(FuseSlot slot, in FuseRequest request)
    {
        FuseOpenIn* arguments = (FuseOpenIn*)request.Arguments;
        FuseOpenRequest open = new(arguments->Flags, request.Header->Pid, request.Header->Uid);
        int result = fileSystem.Open(request.Node, open, out FuseOpenResult opened);
        if (result < 0)
            return result;
        Interlocked.Increment(ref _openFiles);
        return FuseReply.Answer(slot, new FuseOpenOut { Handle = opened.Handle, OpenFlags = opened.Flags });
    }

    public int Release(in FuseRequest request)
    {
        fileSystem.Release(request.Node, ((FuseReleaseIn*)request.Arguments)->Handle);
        if (Interlocked.Decrement(ref _openFiles) == 0)
            unused?.Invoke();
        return 0;
    }

    public int Read(FuseSlot slot, in FuseRequest request)
    {
        FuseReadIn* arguments = (FuseReadIn*)request.Arguments;
        if (arguments->Size > (uint)slot.PayloadCapacity || !FuseReply.IsRange(arguments->Offset, arguments->Size))
            return -Errno.EINVAL;

        Span<byte> destination = slot.ReplyPayload[..(int)arguments->Size];
        int result = fileSystem.Read(request.Node, arguments->Handle, (long)arguments->Offset, destination);
        return result <= destination.Length ? result : -Errno.EIO;
    }

    public int Write(FuseSlot slot, in FuseRequest request)
    {
        FuseWriteIn* arguments = (FuseWriteIn*)request.Arguments;
        bool whole = arguments->Size == (uint)request.Payload.Length && request.Payload.Length <= MaxWrite;
        if (!whole || !FuseReply.IsRange(arguments->Offset, arguments->Size))
            return -Errno.EINVAL;

        int result = fileSystem.Write(
            request.Node, arguments->Handle, (long)arguments->Offset, request.Payload, KindOf(arguments));
        if (result > request.Payload.Length)
            return -Errno.EIO;
        return result < 0 ? result : FuseReply.Answer(slot, new FuseWriteOut { Size = (uint)result });
    }

    /// <summary>What a write says of itself.</summary>
    public static FuseWriteKind KindOf(FuseWriteIn* arguments) =>
        ((arguments->Flags & FuseAbi.SynchronousFlags) != 0 ? FuseWriteKind.Synchronous : FuseWriteKind.Plain)
        | ((arguments->WriteFlags & FuseAbi.WriteFromCache) != 0 ? FuseWriteKind.FromCache : FuseWriteKind.Plain);

    public int Flush(in FuseRequest request) =>
        OnlyError(fileSystem.Flush(request.Node, ((FuseFlushIn*)request.Arguments)->Handle));

    public int Fsync(in FuseRequest request)
    {
        FuseFsyncIn* arguments = (FuseFsyncIn*)request.Arguments;
        bool dataOnly = (arguments->Flags & FuseAbi.FsyncDataOnly) != 0;
        return OnlyError(fileSystem.Fsync(request.Node, arguments->Handle, dataOnly));
    }

    public int Allocate(in FuseRequest request)
    {
        FuseFallocateIn* arguments = (FuseFallocateIn*)request.Arguments;
        if (arguments->Length == 0)
            return -Errno.EINVAL;
        if (!FuseReply.IsRange(arguments->Offset, arguments->Length))
            return -Errno.EFBIG;
        return OnlyError(fileSystem.Allocate(
            request.Node,
            arguments->Handle,
            (FuseAllocateMode)arguments->Mode,
            (long)arguments->Offset,
            (long)arguments->Length));
    }

    public int Seek(FuseSlot slot, in FuseRequest request)
    {
        FuseLseekIn* arguments = (FuseLseekIn*)request.Arguments;
        FuseSeekKind kind = (FuseSeekKind)arguments->Whence;
        if (kind is not (FuseSeekKind.Data or FuseSeekKind.Hole) || arguments->Offset > long.MaxValue)
            return -Errno.EINVAL;

        long result = fileSystem.Seek(request.Node, arguments->Handle, (long)arguments->Offset, kind);
        return result < 0
            ? (int)Math.Max(result, int.MinValue)
            : FuseReply.Answer(slot, new FuseLseekOut { Offset = (ulong)result });
    }

    public int CopyRange(FuseSlot slot, in FuseRequest request)
    {
        FuseCopyFileRangeIn* arguments = (FuseCopyFileRangeIn*)request.Arguments;
        bool isWide = request.Header->Opcode == FuseOpcode.CopyFileRange64;

        // The older operation counts in 32 bits.
        ulong length = Math.Min(arguments->Length, isWide ? (ulong)long.MaxValue : uint.MaxValue);
        bool areRanges = FuseReply.IsRange(arguments->Offset, length) && FuseReply.IsRange(arguments->ToOffset, length);
        if (arguments->Flags != 0 || !areRanges)
            return -Errno.EINVAL;

        FuseFilePlace source = new(request.Node, arguments->Handle, (long)arguments->Offset);
        FuseFilePlace destination = new(arguments->ToNode, arguments->ToHandle, (long)arguments->ToOffset);
        long result = fileSystem.CopyRange(source, destination, (long)length);
        if (result > (long)length)
            return -Errno.EIO;
        if (result < 0)
            return (int)Math.Max(result, int.MinValue);
        return isWide
            ? FuseReply.Answer(slot, new FuseCopyFileRangeOut { BytesCopied = (ulong)result })
            : FuseReply.Answer(slot, new FuseWriteOut { Size = (uint)result });
    }

    /// <summary>For replies without payload: success is 0 whatever the handler counted.</summary>
    private static int OnlyError(int result) => Math.Min(result, 0);
}
