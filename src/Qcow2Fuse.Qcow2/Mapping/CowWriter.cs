// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// Writes the data of an allocation together with the parts of its clusters that have to be copied: the head before
/// the request and the tail after it, merged with the data into one write.
/// </summary>
internal sealed class CowWriter
{
    /// <summary>Zero edges from this size on are zeroed by the host instead of being written.</summary>
    private const int ZeroEdgeBytesMin = 64 * 1024;

    /// <summary>
    /// The bytes of an edge that share a block with the request are always written with it: a sector of the disk
    /// must never hold a mixture of an edge and of what was there before.
    /// </summary>
    private const int BlockBytes = 4096;

    /// <summary>
    /// Edges are read together, with what the request replaces between them, where that is not more than these bytes
    /// and all of it not more than <see cref="WholeBytesMax"/>: one read of the disk instead of two.
    /// </summary>
    private const int BetweenBytesMax = 16 * 1024;

    private const int WholeBytesMax = 256 * 1024;

    private readonly GuestData _data;
    private readonly IGuestReader _guest;

    public CowWriter(GuestData data, IGuestReader guest)
    {
        _data = data;
        _guest = guest;
    }

    /// <summary>Writes everything between the allocation's copy-on-write ends; the gate is not held.</summary>
    public void Write(ClusterAllocation allocation, ReadOnlySpan<byte> request)
    {
        int headLength = (int)(allocation.RequestStart - allocation.CowStart);
        int tailLength = (int)(allocation.CowEnd - allocation.RequestEnd);
        bool headIsZero = _guest.ReadsAsZero(allocation.CowStart, headLength);
        bool tailIsZero = _guest.ReadsAsZero(allocation.RequestEnd, tailLength);
        if (!headIsZero && !tailIsZero
            && TryReadWhole(allocation, headLength, request.Length, tailLength, out PooledBuffer whole))
        {
            using (whole)
            {
                _data.Write(
                    allocation.CowStart, allocation.HostOf(allocation.CowStart), whole.Span[..headLength], request,
                    whole.Span[(headLength + request.Length)..]);
            }

            return;
        }

        int zeroed = headIsZero ? ZeroByHost(allocation, allocation.CowStart, headLength, isHead: true) : 0;
        using PooledBuffer headBuffer = RentEdge(
            allocation, allocation.CowStart + zeroed, headLength - zeroed, headIsZero, out ReadOnlySpan<byte> head);
        zeroed = tailIsZero ? ZeroByHost(allocation, allocation.RequestEnd, tailLength, isHead: false) : 0;
        using PooledBuffer tailBuffer = RentEdge(
            allocation, allocation.RequestEnd, tailLength - zeroed, tailIsZero, out ReadOnlySpan<byte> tail);
        GuestOffset start = allocation.RequestStart + -head.Length;
        _data.Write(start, allocation.HostOf(start), head, request, tail);
    }

    /// <summary>
    /// Reads both edges, which hold data, at once, and what lies between them. False where they are to be read one by
    /// one.
    /// </summary>
    private bool TryReadWhole(
        ClusterAllocation allocation, int headLength, int requestLength, int tailLength, out PooledBuffer whole)
    {
        whole = default;
        int length = headLength + requestLength + tailLength;
        if (requestLength > BetweenBytesMax || length > WholeBytesMax)
            return false;
        PooledBuffer buffer = BufferPool.Shared.Rent(length);
        bool isRead = false;
        try
        {
            _guest.ReadForCopy(allocation.CowStart, buffer.Span);
            isRead = true;
        }
        catch (BlockException) when (!CanRead(allocation.RequestStart, buffer.Span.Slice(headLength, requestLength)))
        {
            // What the request replaces need not be readable.
        }
        finally
        {
            if (!isRead)
                buffer.Dispose();
        }

        whole = isRead ? buffer : default;
        return isRead;
    }

    private bool CanRead(GuestOffset start, Span<byte> destination)
    {
        try
        {
            _guest.ReadForCopy(start, destination);
            return true;
        }
        catch (BlockException)
        {
            return false;
        }
    }

    /// <summary>
    /// Zeroes the part of a large zero edge that is away from the request; returns how many bytes that are.
    /// </summary>
    private int ZeroByHost(ClusterAllocation allocation, GuestOffset start, int length, bool isHead)
    {
        if (length < ZeroEdgeBytesMin || allocation.IsVirgin || _data.IsEncrypted)
            return 0;
        long from = start.Value;
        long to = from + length;
        if (isHead)
            to &= -BlockBytes;
        else
            from = (from + BlockBytes - 1) & -BlockBytes;
        _data.WriteZeroes(allocation.HostOf(new GuestOffset(from)), to - from);
        return (int)(to - from);
    }

    /// <summary>
    /// The content of a head or tail that has to be written; empty where the place already reads as zeroes.
    /// </summary>
    private PooledBuffer RentEdge(
        ClusterAllocation allocation, GuestOffset start, int length, bool isZero, out ReadOnlySpan<byte> content)
    {
        content = default;
        if (length == 0)
            return default;
        if (isZero && allocation.IsVirgin && !_data.IsEncrypted)
            return default;
        PooledBuffer edge = BufferPool.Shared.Rent(length);
        try
        {
            if (isZero)
                edge.Span.Clear();
            else
                _guest.ReadForCopy(start, edge.Span);
        }
        catch
        {
            edge.Dispose();
            throw;
        }

        content = edge.Span;
        return edge;
    }
}
