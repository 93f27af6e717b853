// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>Writes the disk.</summary>
/// <remarks>
/// The place of a write is found with the gate held, the data written without it, and only then the tables are changed
/// where they have to be.
/// </remarks>
internal sealed class GuestWriter
{
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly DurableFile _durable;
    private readonly OperationEpochs _epochs;
    private readonly ClusterAllocations _allocations;
    private readonly GuestData _guestData;
    private readonly CowWriter _cow;
    private readonly BitmapLife _bitmaps;
    private readonly CommitTimer _commit;
    private readonly FreedSpace _freed;

    public GuestWriter(
        ImageCore image, DurableFile durable, OperationEpochs epochs, ClusterAllocations allocations,
        GuestData guestData, IGuestReader reader, BitmapLife bitmaps, CommitTimer commit, FreedSpace freed)
    {
        _geometry = image.Geometry;
        _gate = image.Gate;
        _durable = durable;
        _epochs = epochs;
        _allocations = allocations;
        _guestData = guestData;
        _cow = new CowWriter(guestData, reader);
        _bitmaps = bitmaps;
        _commit = commit;
        _freed = freed;
    }

    /// <summary>Writes all of <paramref name="source"/>, one mapping after the other.</summary>
    public void Write(GuestOffset guest, ReadOnlySpan<byte> source)
    {
        bool isScarce = false;
        while (!source.IsEmpty)
        {
            // Free clusters that do not lie in a row are still found one by one.
            int most = isScarce ? _geometry.ClusterSize - (int)_geometry.InCluster(guest) : source.Length;
            try
            {
                WriteMapping mapping = Place(guest, Math.Min(most, source.Length));
                ReadOnlySpan<byte> part = source[..mapping.Length];
                if (mapping.Allocation is null)
                    WriteInPlace(guest, mapping, part);
                else
                    WriteAllocation(mapping.Allocation, part);
                guest += part.Length;
                source = source[part.Length..];
                isScarce = false;
            }
            catch (BlockException e) when (e.Kind == BlockErrorKind.NoSpace && !isScarce)
            {
                isScarce = true;
                _freed.Reclaim();
            }
        }
    }

    private WriteMapping Place(GuestOffset guest, int length)
    {
        using (_gate.Enter())
        {
            _durable.ThrowIfFailed();
            WriteMapping mapping = _allocations.Allocate(guest, length);

            // After the place is known and before the data is there: a write that is held back has either been
            // recorded or not begun.
            _bitmaps.MarkChange(guest.Value, mapping.Length);
            return mapping;
        }
    }

    private void WriteInPlace(GuestOffset guest, in WriteMapping mapping, ReadOnlySpan<byte> part)
    {
        try
        {
            _guestData.Write(guest, mapping.Host, head: [], part, tail: []);
        }
        finally
        {
            _epochs.Exit(mapping.Epoch);
        }
    }

    private void WriteAllocation(ClusterAllocation allocation, ReadOnlySpan<byte> request)
    {
        bool linked = false;
        try
        {
            _cow.Write(allocation, request);
            using (_gate.Enter())
            {
                _allocations.Link(allocation);
                _commit.NoteChange();
            }

            linked = true;
        }
        finally
        {
            if (!linked)
            {
                using (_gate.Enter())
                    _allocations.Abort(allocation);
            }
        }
    }
}
