// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>
/// Writes the data of an allocation together with the parts of its clusters that have to be copied: the head before
/// the request and the tail after it, merged with the data into one write.
/// </summary>
internal sealed class CowWriter
{
    /// <summary>Zero edges from this size on are zeroed by the host instead of being written.</summary>
    private const int ZeroEdgeBytesMin = 64 * 1024;

    private readonly BlockDevice _data;
    private readonly Qcow2Device _guest;

    public CowWriter(BlockDevice data, Qcow2Device guest)
    {
        _data = data;
        _guest = guest;
    }

    /// <summary>Writes everything between the allocation's copy-on-write ends; the gate is not held.</summary>
    public void Write(ClusterAllocation allocation, ReadOnlySpan<byte> request)
    {
        int headLength = (int)(allocation.RequestStart - allocation.CowStart);
        int tailLength = (int)(allocation.CowEnd - allocation.RequestEnd);
        using PooledBuffer headBuffer = RentEdge(allocation, allocation.CowStart, headLength, out ReadOnlySpan<byte> head);
        using PooledBuffer tailBuffer =
            RentEdge(allocation, allocation.RequestEnd, tailLength, out ReadOnlySpan<byte> tail);
        HostOffset start = allocation.HostOf(allocation.RequestStart);
        _data.WriteParts(start.Value - head.Length, head, request, tail);
    }

    /// <summary>
    /// The content of a head or tail that has to be written; empty where the place already reads as zeroes or was
    /// zeroed here.
    /// </summary>
    private PooledBuffer RentEdge(
        ClusterAllocation allocation, GuestOffset start, int length, out ReadOnlySpan<byte> content)
    {
        content = default;
        if (length == 0)
            return default;
        bool zero = _guest.ReadsAsZero(start, length);
        if (zero && allocation.IsVirgin)
            return default;
        if (zero && length >= ZeroEdgeBytesMin)
        {
            _data.WriteZeroes(allocation.HostOf(start).Value, length, mayUnmap: false);
            return default;
        }

        PooledBuffer edge = BufferPool.Shared.Rent(length);
        try
        {
            if (zero)
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
