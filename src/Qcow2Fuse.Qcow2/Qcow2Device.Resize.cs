// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>Growing of the virtual disk.</summary>
public sealed partial class Qcow2Device
{
    /// <inheritdoc/>
    /// <remarks>
    /// Grows only. The larger L1 table is durable before the header points at it, and the size in the header follows
    /// last. Where a longer backing file would show through in the new space, it is zeroed.
    /// </remarks>
    public override void Resize(long length)
    {
        BeginWrite(offset: 0, length: 0);
        StoreGathered();
        if (length < Length)
            throw new BlockException(BlockErrorKind.NotSupported, $"{Name}: shrinking is not supported");
        if (length % 512 != 0)
            throw new BlockException(BlockErrorKind.OutOfRange, $"{Name}: size {length} is not a multiple of 512");
        long entries = _geometry.L1EntriesFor(length);
        if (entries > (32L << 20) / 8)
            throw new BlockException(BlockErrorKind.TooLarge, $"{Name}: {length} bytes need too large an L1 table");
        long old = Length;
        lock (_gate)
        {
            if (entries > _caches.L1.Count)
                GrowL1((int)entries);
            WriteSize(length);
            Volatile.Write(ref _length, length);
        }

        if (Backing is not null && Backing.Length > old)
            WriteZeroes(old, Math.Min(length, Backing.Length) - old, mayUnmap: true);
    }

    private void GrowL1(int entries)
    {
        int clusters = (int)(_geometry.RoundUpToCluster(entries * 8L) >> _geometry.ClusterBits);
        HostOffset place = _caches.Allocator.Allocate(clusters).Start;
        while (true)
        {
            // The copy must not hold entries of tables that are not durable yet.
            _caches.Flush();
            _caches.BeginExclusive();
            if (!_caches.L1.HasDirty)
                break;
            _caches.EndExclusive();
        }

        try
        {
            ResidentTable old = _caches.L1;
            int oldClusters = (int)(_geometry.RoundUpToCluster(old.Count * 8L) >> _geometry.ClusterBits);
            HostOffset oldPlace = old.Offset;
            ResidentTable larger = old.CopyTo(place, entries);
            larger.WriteAll(clusters << _geometry.ClusterBits);
            _caches.Barrier();
            _header.Update(header => header with { L1Size = entries, L1Offset = place.Value });
            _caches.Barrier();
            _caches.ReplaceL1(larger);
            if (oldClusters > 0)
                _caches.Frees.Add(oldPlace, oldClusters, _caches.Epochs.Current);
        }
        finally
        {
            _caches.EndExclusive();
        }
    }

    private void WriteSize(long length)
    {
        _header.Update(header => header with { Size = length });
        _caches.Barrier();
    }
}
