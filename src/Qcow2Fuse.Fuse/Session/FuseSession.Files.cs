// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>Requests on open files.</summary>
public sealed unsafe partial class FuseSession
{
    private int Open(FuseSlot slot, in FuseRequest request)
    {
        FuseOpenIn* arguments = (FuseOpenIn*)request.Arguments;
        FuseOpenRequest open = new(arguments->Flags, request.Header->Pid, request.Header->Uid);
        int result = _fileSystem.Open(request.Node, open, out FuseOpenResult opened);
        if (result < 0)
            return result;
        Interlocked.Increment(ref _openFiles);
        return Answer(slot, new FuseOpenOut { Handle = opened.Handle, OpenFlags = opened.Flags });
    }

    private int Release(in FuseRequest request)
    {
        _fileSystem.Release(request.Node, ((FuseReleaseIn*)request.Arguments)->Handle);
        if (Interlocked.Decrement(ref _openFiles) == 0)
            _options.OnUnused?.Invoke();
        return 0;
    }

    private int Read(FuseSlot slot, in FuseRequest request)
    {
        FuseReadIn* arguments = (FuseReadIn*)request.Arguments;
        if (arguments->Size > (uint)slot.PayloadCapacity || !IsRange(arguments->Offset, arguments->Size))
            return -FuseErrno.EINVAL;

        Span<byte> destination = slot.ReplyPayload[..(int)arguments->Size];
        int result = _fileSystem.Read(request.Node, arguments->Handle, (long)arguments->Offset, destination);
        return result <= destination.Length ? result : -FuseErrno.EIO;
    }

    private int Write(FuseSlot slot, in FuseRequest request)
    {
        FuseWriteIn* arguments = (FuseWriteIn*)request.Arguments;
        bool whole = arguments->Size == (uint)request.Payload.Length && request.Payload.Length <= MaxWrite;
        if (!whole || !IsRange(arguments->Offset, arguments->Size))
            return -FuseErrno.EINVAL;

        int result = _fileSystem.Write(
            request.Node, arguments->Handle, (long)arguments->Offset, request.Payload, KindOf(arguments));
        if (result > request.Payload.Length)
            return -FuseErrno.EIO;
        return result < 0 ? result : Answer(slot, new FuseWriteOut { Size = (uint)result });
    }

    private static FuseWriteKind KindOf(FuseWriteIn* arguments) =>
        ((arguments->Flags & FuseAbi.SynchronousFlags) != 0 ? FuseWriteKind.Synchronous : FuseWriteKind.Plain)
        | ((arguments->WriteFlags & FuseAbi.WriteFromCache) != 0 ? FuseWriteKind.FromCache : FuseWriteKind.Plain);

    private int Flush(in FuseRequest request) =>
        OnlyError(_fileSystem.Flush(request.Node, ((FuseFlushIn*)request.Arguments)->Handle));

    private int Fsync(in FuseRequest request)
    {
        FuseFsyncIn* arguments = (FuseFsyncIn*)request.Arguments;
        bool dataOnly = (arguments->Flags & FuseAbi.FsyncDataOnly) != 0;
        return OnlyError(_fileSystem.Fsync(request.Node, arguments->Handle, dataOnly));
    }

    private int Allocate(in FuseRequest request)
    {
        FuseFallocateIn* arguments = (FuseFallocateIn*)request.Arguments;
        if (arguments->Length == 0)
            return -FuseErrno.EINVAL;
        if (!IsRange(arguments->Offset, arguments->Length))
            return -FuseErrno.EFBIG;
        return OnlyError(_fileSystem.Allocate(
            request.Node,
            arguments->Handle,
            (FuseAllocateMode)arguments->Mode,
            (long)arguments->Offset,
            (long)arguments->Length));
    }

    private int Seek(FuseSlot slot, in FuseRequest request)
    {
        FuseLseekIn* arguments = (FuseLseekIn*)request.Arguments;
        FuseSeekKind kind = (FuseSeekKind)arguments->Whence;
        if (kind is not (FuseSeekKind.Data or FuseSeekKind.Hole) || arguments->Offset > long.MaxValue)
            return -FuseErrno.EINVAL;

        long result = _fileSystem.Seek(request.Node, arguments->Handle, (long)arguments->Offset, kind);
        return result < 0
            ? (int)Math.Max(result, int.MinValue)
            : Answer(slot, new FuseLseekOut { Offset = (ulong)result });
    }

    private int CopyRange(FuseSlot slot, in FuseRequest request)
    {
        FuseCopyFileRangeIn* arguments = (FuseCopyFileRangeIn*)request.Arguments;
        bool isWide = request.Header->Opcode == FuseOpcode.CopyFileRange64;

        // The older operation counts in 32 bits.
        ulong length = Math.Min(arguments->Length, isWide ? (ulong)long.MaxValue : uint.MaxValue);
        if (arguments->Flags != 0 || !IsRange(arguments->Offset, length) || !IsRange(arguments->ToOffset, length))
            return -FuseErrno.EINVAL;

        FuseFilePlace source = new(request.Node, arguments->Handle, (long)arguments->Offset);
        FuseFilePlace destination = new(arguments->ToNode, arguments->ToHandle, (long)arguments->ToOffset);
        long result = _fileSystem.CopyRange(source, destination, (long)length);
        if (result > (long)length)
            return -FuseErrno.EIO;
        if (result < 0)
            return (int)Math.Max(result, int.MinValue);
        return isWide
            ? Answer(slot, new FuseCopyFileRangeOut { BytesCopied = (ulong)result })
            : Answer(slot, new FuseWriteOut { Size = (uint)result });
    }

    private static bool IsRange(ulong offset, ulong length) =>
        offset <= long.MaxValue && length <= long.MaxValue - offset;

    /// <summary>For replies without payload: success is 0 whatever the handler counted.</summary>
    private static int OnlyError(int result) => Math.Min(result, 0);
}
