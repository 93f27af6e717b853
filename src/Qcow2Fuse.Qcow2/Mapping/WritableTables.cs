// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>L2 tables that the active disk has for itself: new ones, and private copies of shared ones.</summary>
/// <remarks>All methods are called with the image's gate held exactly once and may release it.</remarks>
internal sealed class WritableTables
{
    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly MetadataTables _tables;
    private readonly ClusterAllocator _allocator;
    private readonly OverlapGuard _guard;
    private readonly PendingFrees _frees;
    private readonly OperationEpochs _epochs;
    private readonly MetadataFlush _flush;
    private readonly CheckedEntries _entries;
    private readonly InFlightAllocations _inFlight;
    private readonly WriteHold _hold;

    public WritableTables(
        ImageCore image, ImageMetadata metadata, CheckedEntries entries, InFlightAllocations inFlight, WriteHold hold)
    {
        _file = image.File;
        _geometry = image.Geometry;
        _gate = image.Gate;
        _tables = metadata.Tables;
        _allocator = metadata.Allocator;
        _guard = metadata.Guard;
        _frees = metadata.Frees;
        _epochs = metadata.Epochs;
        _flush = metadata.Flush;
        _entries = entries;
        _inFlight = inFlight;
        _hold = hold;
    }

    /// <summary>
    /// Pins the slice that maps <paramref name="guest"/> for changing it: creates the L2 table where there is none, and
    /// copies it where a snapshot shares it. Waits while writes are held back, unless it is called for an allocation
    /// that is in flight already. The gate is held and released meanwhile.
    /// </summary>
    public CachedTable GetSliceForWrite(GuestOffset guest, bool isInFlight = false)
    {
        long index = _geometry.L1Index(guest);
        while (true)
        {
            if (!isInFlight)
                _hold.WaitWhileHeld();
            if (index >= _tables.L1.Count)
                throw new BlockException(BlockErrorKind.OutOfRange,
                    $"{_file.Name}: offset {guest.Value} lies beyond the end of the disk, which became smaller");
            ulong entry = _tables.L1[index];
            long table = _entries.CheckedTable(entry, guest);
            if (table == 0 || (entry & L1Entry.Copied) == 0)
            {
                CreateTable(index, entry, guest);
                continue;
            }

            CachedTable slice = _tables.L2.Get(table + _geometry.SliceOffset(guest));
            if (index < _tables.L1.Count && _tables.L1[index] == entry && (isInFlight || !_hold.IsHeld))
                return slice;
            slice.Dispose();
        }
    }

    /// <summary>
    /// Gives L1 entry <paramref name="index"/> a table of its own, unless somebody else did so meanwhile. One table is
    /// created at a time: it maps hundreds of megabytes, so that nobody waits often.
    /// </summary>
    private void CreateTable(long index, ulong expected, GuestOffset guest)
    {
        if (_inFlight.IsCreatingTable)
        {
            _gate.Wait();
            return;
        }

        if (_tables.L1[index] != expected)
            return;
        _inFlight.BeginTable();
        try
        {
            HostOffset host = _allocator.Allocate(1).Start;
            long old = _entries.CheckedTable(expected, guest);
            try
            {
                if (old == 0)
                    _file.WriteZeroes(host.Value, _geometry.ClusterSize, mayUnmap: false);
                else
                    CopyTable(old, host);
            }
            catch
            {
                _allocator.FreeUnlinked(host, 1);
                throw;
            }

            // A reader that waited long may have loaded what was there when the cluster was another table.
            for (int offset = 0; offset < _geometry.ClusterSize; offset += _geometry.SliceBytes)
                _tables.L2.Drop(host.Value + offset);
            _flush.AddNewTable(host);
            _guard.Add(host, _geometry.ClusterSize, MetadataKind.L2Table);
            _tables.L1[index] = (ulong)host.Value | L1Entry.Copied;
            if (old != 0)
                _frees.Add(new HostOffset(old), 1, _epochs.Current, isTable: true);
        }
        finally
        {
            _inFlight.EndTable();
        }
    }

    /// <summary>
    /// A shared table is never changed by writes, but its flags may have been, so its content is that of the cache.
    /// </summary>
    private void CopyTable(long from, HostOffset to)
    {
        using PooledBuffer table = BufferPool.Shared.Rent(_geometry.ClusterSize);
        for (int offset = 0; offset < _geometry.ClusterSize; offset += _geometry.SliceBytes)
        {
            using CachedTable slice = _tables.L2.Get(from + offset);
            slice.Bytes.CopyTo(table.Span[offset..]);
        }

        _file.Write(to.Value, table.Span);
    }
}
