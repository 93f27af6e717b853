// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>
/// Requests on names, attributes and directories: each a call of the file system, and its answer as the reply's
/// payload.
/// </summary>
/// <param name="fileSystem">Serves them.</param>
/// <param name="cacheTimeout">How long the kernel may use names and attributes that say nothing else.</param>
internal sealed unsafe class NodeRequests(IFuseFileSystem fileSystem, TimeSpan cacheTimeout)
{
    private const uint BlockUnit = 512;

    public int Lookup(FuseSlot slot, in FuseRequest request)
    {
        int result = request.TryGetName(out ReadOnlySpan<byte> name);
        FuseAttributes attributes = default;
        if (result >= 0)
            result = fileSystem.Lookup(request.Node, name, out attributes);
        if (result < 0)
            return result;

        (ulong seconds, uint nanoseconds) = CacheTime(attributes);
        return FuseReply.Answer(slot, new FuseEntryOut
        {
            Node = attributes.Node,
            EntryValid = seconds,
            EntryValidNanoseconds = nanoseconds,
            AttrValid = seconds,
            AttrValidNanoseconds = nanoseconds,
            Attr = ToAttr(attributes),
        });
    }

    public int GetAttributes(FuseSlot slot, in FuseRequest request)
    {
        int result = fileSystem.GetAttributes(request.Node, out FuseAttributes attributes);
        return result < 0 ? result : AnswerAttributes(slot, attributes);
    }

    public int SetAttributes(FuseSlot slot, in FuseRequest request)
    {
        FuseSetAttrIn* arguments = (FuseSetAttrIn*)request.Arguments;
        FuseSetAttrValid valid = arguments->Valid;
        if (valid.HasFlag(FuseSetAttrValid.Size) && arguments->Size > long.MaxValue)
            return -Errno.EFBIG;

        FuseTime accessed = new(arguments->AccessSeconds, arguments->AccessNanoseconds);
        FuseTime modified = new(arguments->ModifySeconds, arguments->ModifyNanoseconds);
        FuseTime now = FuseTime.Now;
        FuseAttributeChange change = new()
        {
            Handle = valid.HasFlag(FuseSetAttrValid.Handle) ? arguments->Handle : null,
            Size = valid.HasFlag(FuseSetAttrValid.Size) ? (long)arguments->Size : null,
            Mode = valid.HasFlag(FuseSetAttrValid.Mode) ? arguments->Mode : null,
            Uid = valid.HasFlag(FuseSetAttrValid.Uid) ? arguments->Uid : null,
            Gid = valid.HasFlag(FuseSetAttrValid.Gid) ? arguments->Gid : null,
            Accessed = Choose(valid, FuseSetAttrValid.AccessTime, FuseSetAttrValid.AccessNow, accessed, now),
            Modified = Choose(valid, FuseSetAttrValid.ModifyTime, FuseSetAttrValid.ModifyNow, modified, now),
        };
        int result = fileSystem.SetAttributes(request.Node, change, out FuseAttributes attributes);
        return result < 0 ? result : AnswerAttributes(slot, attributes);
    }

    public int GetStatistics(FuseSlot slot, in FuseRequest request)
    {
        int result = fileSystem.GetStatistics(request.Node, out FuseStatistics statistics);
        return result < 0 ? result : FuseReply.Answer(slot, new FuseStatFsOut
        {
            Blocks = statistics.Blocks,
            FreeBlocks = statistics.FreeBlocks,
            AvailableBlocks = statistics.AvailableBlocks,
            Files = statistics.Nodes,
            FreeFiles = statistics.FreeNodes,
            BlockSize = statistics.BlockSize,
            FragmentSize = statistics.BlockSize,
            NameLength = FuseAbi.MaxName,
        });
    }

    public int OpenDirectory(FuseSlot slot, in FuseRequest request)
    {
        int result = fileSystem.OpenDirectory(request.Node, out ulong handle);
        return result < 0 ? result : FuseReply.Answer(slot, new FuseOpenOut { Handle = handle });
    }

    public int ReadDirectory(FuseSlot slot, in FuseRequest request)
    {
        FuseReadIn* arguments = (FuseReadIn*)request.Arguments;
        if (arguments->Size > (uint)slot.PayloadCapacity || arguments->Offset > long.MaxValue)
            return -Errno.EINVAL;

        FuseDirectoryWriter writer = new(slot.ReplyPayload[..(int)arguments->Size]);
        int result = fileSystem.ReadDirectory(
            request.Node, arguments->Handle, (long)arguments->Offset, ref writer);
        return result < 0 ? result : writer.Length;
    }

    public int ReleaseDirectory(in FuseRequest request)
    {
        fileSystem.ReleaseDirectory(request.Node, ((FuseReleaseIn*)request.Arguments)->Handle);
        return 0;
    }

    public int GetExtendedAttribute(FuseSlot slot, in FuseRequest request)
    {
        uint size = ((FuseGetXattrIn*)request.Arguments)->Size;
        int result = request.TryGetName(out ReadOnlySpan<byte> name);
        if (result < 0)
            return result;

        // The value may be built where the name has come in.
        Span<byte> copy = stackalloc byte[FuseAbi.MaxName];
        name.CopyTo(copy);
        Span<byte> value = slot.ReplyPayload[..(int)Math.Min(size, (uint)slot.PayloadCapacity)];
        return AnswerSized(slot, size, fileSystem.GetExtendedAttribute(request.Node, copy[..name.Length], value));
    }

    public int ListExtendedAttributes(FuseSlot slot, in FuseRequest request)
    {
        uint size = ((FuseGetXattrIn*)request.Arguments)->Size;
        Span<byte> names = slot.ReplyPayload[..(int)Math.Min(size, (uint)slot.PayloadCapacity)];
        return AnswerSized(slot, size, fileSystem.ListExtendedAttributes(request.Node, names));
    }

    /// <summary>
    /// A request with size 0 asks how long the answer is; others get it, or ERANGE where it is longer.
    /// </summary>
    private static int AnswerSized(FuseSlot slot, uint size, int result)
    {
        if (result < 0)
            return result;
        if (size == 0)
            return FuseReply.Answer(slot, new FuseGetXattrOut { Size = (uint)result });
        return (uint)result <= size ? result : -Errno.ERANGE;
    }

    private int AnswerAttributes(FuseSlot slot, in FuseAttributes attributes)
    {
        (ulong seconds, uint nanoseconds) = CacheTime(attributes);
        return FuseReply.Answer(slot, new FuseAttrOut
        {
            AttrValid = seconds,
            AttrValidNanoseconds = nanoseconds,
            Attr = ToAttr(attributes),
        });
    }

    private (ulong Seconds, uint Nanoseconds) CacheTime(in FuseAttributes attributes)
    {
        long ticks = Math.Max((attributes.CacheTimeout ?? cacheTimeout).Ticks, 0);
        return ((ulong)(ticks / TimeSpan.TicksPerSecond), (uint)(ticks % TimeSpan.TicksPerSecond) * 100);
    }

    private static FuseTime? Choose(
        FuseSetAttrValid valid, FuseSetAttrValid given, FuseSetAttrValid present, FuseTime time, FuseTime now)
    {
        if (valid.HasFlag(present))
            return now;
        return valid.HasFlag(given) ? time : null;
    }

    private static FuseAttr ToAttr(in FuseAttributes attributes) => new()
    {
        Inode = attributes.Node,
        Size = (ulong)attributes.Size,
        Blocks = ((ulong)attributes.AllocatedBytes + BlockUnit - 1) / BlockUnit,
        AccessSeconds = attributes.Accessed.Seconds,
        AccessNanoseconds = attributes.Accessed.Nanoseconds,
        ModifySeconds = attributes.Modified.Seconds,
        ModifyNanoseconds = attributes.Modified.Nanoseconds,
        ChangeSeconds = attributes.Changed.Seconds,
        ChangeNanoseconds = attributes.Changed.Nanoseconds,
        Mode = attributes.Mode,
        Links = attributes.Links,
        Uid = attributes.Uid,
        Gid = attributes.Gid,
        BlockSize = attributes.BlockSize,
    };
}
