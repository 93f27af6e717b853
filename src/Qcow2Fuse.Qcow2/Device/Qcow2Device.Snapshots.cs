// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;
using Qcow2Fuse.Qcow2.Snapshots;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Internal snapshots (specification section "Snapshots").</summary>
public sealed partial class Qcow2Device
{
    /// <summary>Memory of the runtime for a snapshot beside its entry.</summary>
    private const long BytesPerSnapshot = 96;

    private List<SnapshotEntry>? _snapshots;
    private MemoryCharge? _snapshotCharge;
    private bool _changesSnapshots;
    private long _snapshotVersion;

    /// <summary>Counts the changes of the snapshots since the image was opened.</summary>
    public long SnapshotVersion => Volatile.Read(ref _snapshotVersion);

    /// <summary>The snapshots in the order of their table.</summary>
    /// <exception cref="BlockException">The snapshot table is invalid.</exception>
    public IReadOnlyList<SnapshotInfo> Snapshots
    {
        get
        {
            using (_gate.Enter())
                return [.. LoadedSnapshots().Select(static entry => entry.Info)];
        }
    }

    /// <summary>
    /// Goes through the snapshots in the order of their table, which is read by parts, from a place in it on, until the
    /// visitor returns false. Changes of the snapshots meanwhile are not seen.
    /// </summary>
    /// <param name="place">0, or a place that a record of the same version had.</param>
    /// <param name="visit">Gets one after the other.</param>
    /// <returns>The version that was read.</returns>
    /// <exception cref="BlockException">The snapshot table is invalid.</exception>
    public long VisitSnapshots(int place, Func<SnapshotRecord, bool> visit)
    {
        Qcow2Header header;
        long version;
        long epoch;
        using (_gate.Enter())
        {
            while (_changesSnapshots)
                _gate.Wait();
            header = _header.Current;
            version = _snapshotVersion;

            // The clusters of a table that is replaced are not used for something else before this has ended.
            epoch = _caches.Epochs.Enter();
        }

        try
        {
            foreach ((int at, SnapshotEntry entry) in SnapshotTable.Placed(_file, header, place))
            {
                if (!visit(new SnapshotRecord(at, entry.Info)))
                    break;
            }

            return version;
        }
        finally
        {
            _caches.Epochs.Exit(epoch);
        }
    }

    /// <summary>
    /// Takes a snapshot of the disk as it is at one moment, while guests read and write; their writes wait meanwhile.
    /// Durable when it returns. The time it takes grows with the L2 tables and clusters that are mapped.
    /// </summary>
    /// <param name="name">At most 255 bytes; other snapshots may have the same name, as in QEMU.</param>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.TooLarge"/>: a refcount, the table or the name has no room for it. Whatever the kind,
    /// the image is as it was; where even taking back failed, it has clusters that are counted and not used.
    /// </exception>
    public SnapshotInfo CreateSnapshot(string name)
    {
        SnapshotInfo? created = null;
        ChangeSnapshots(changes =>
        {
            changes.Create(LoadedSnapshots(), name, Length, all => _snapshots = all);
            created = _snapshots![^1].Info;
        });
        return created!;
    }

    /// <summary>
    /// Makes the disk what it was when a snapshot was taken, its size included. What was written since then is gone,
    /// unless another snapshot has it. Nobody should be writing meanwhile: what becomes of such a write is open.
    /// </summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NotFound"/>, or as
    /// <see cref="CreateSnapshot"/>.</exception>
    public void ApplySnapshot(string nameOrId)
    {
        lock (_resizeLock)
        {
            BeginWrite(offset: 0, length: 0);
            using (_gate.Enter())
                BeginBitmapResize(SizeOf(FindSnapshot(nameOrId)));
            try
            {
                ChangeSnapshots(changes =>
                {
                    SnapshotEntry entry = FindSnapshot(nameOrId);
                    long size = SizeOf(entry);
                    changes.Apply(entry, size, () =>
                    {
                        ResizeBitmaps(size);
                        Volatile.Write(ref _length, size);
                        RecordWholeDisk();
                    });
                });
            }
            finally
            {
                using (_gate.Enter())
                    EndBitmapResize();
            }
        }
    }

    /// <summary>Removes a snapshot and frees what only it used. Guest writes wait meanwhile.</summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NotFound"/>;
    /// <see cref="BlockErrorKind.Locked"/> while it is open (<see cref="OpenSnapshot"/>).</exception>
    public void DeleteSnapshot(string nameOrId) => ChangeSnapshots(changes =>
    {
        SnapshotEntry entry = FindSnapshot(nameOrId);
        if (entry.Readers > 0)
            throw BlockException.About(Name, BlockErrorKind.Locked,
                $"snapshot '{Printable.Text(entry.Info.Name)}' is being read and cannot be deleted");
        changes.Delete(LoadedSnapshots(), entry, left => _snapshots = left);
    });

    /// <summary>
    /// The disk as it was when a snapshot was taken, read-only and at its own size. Any number can be open while the
    /// disk itself is read and written. The caller disposes it before the image.
    /// </summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NotFound"/>, or the snapshot's L1 table is
    /// invalid.</exception>
    public BlockDevice OpenSnapshot(string nameOrId)
    {
        RefuseExternalData();
        SnapshotEntry entry = BeginReading(nameOrId);
        ResidentTable? l1 = null;
        try
        {
            // Without the gate, for which guests wait: a snapshot that has a reader stays where it is.
            long size = SizeOf(entry);
            new SnapshotChanges(_file, _geometry, _header, _caches, _gate).CheckL1(entry);
            int entries = (int)Math.Min(entry.L1Size, _geometry.L1EntriesFor(size));
            l1 = ResidentTable.Load(_file, entry.L1Offset, entries, _caches.Memory);
            using (_gate.Enter())
            {
                var map = new ClusterMap(_file, _geometry, _caches, _gate, Backing?.Length, keepsPlace: false, l1);
                return new SnapshotDevice(this, entry, size, l1, map, _gate);
            }
        }
        catch
        {
            l1?.Dispose();
            using (_gate.Enter())
                entry.Readers--;
            throw;
        }
    }

    /// <summary>Counts a reader of a snapshot, which cannot be deleted from then on.</summary>
    private SnapshotEntry BeginReading(string nameOrId)
    {
        while (true)
        {
            Qcow2Header header;
            long version;
            long epoch;
            using (_gate.Enter())
            {
                while (_changesSnapshots)
                    _gate.Wait();
                if (_snapshots is not null)
                {
                    SnapshotEntry entry = FindSnapshot(nameOrId);
                    entry.Readers++;
                    return entry;
                }

                // As in VisitSnapshots.
                header = _header.Current;
                version = _snapshotVersion;
                epoch = _caches.Epochs.Enter();
            }

            List<SnapshotEntry> read;
            MemoryCharge charge;
            try
            {
                read = ReadSnapshots(header, out charge);
            }
            finally
            {
                _caches.Epochs.Exit(epoch);
            }

            using (_gate.Enter())
            {
                if (_snapshots is null && !_changesSnapshots && version == _snapshotVersion)
                    (_snapshots, _snapshotCharge) = (read, charge);
                else
                    charge.Dispose();
            }
        }
    }

    /// <summary>Runs a change with writes held back, one at a time.</summary>
    private void ChangeSnapshots(Action<SnapshotChanges> change)
    {
        RefuseExternalData();
        BeginWrite(offset: 0, length: 0);
        try
        {
            lock (_resizeLock)
            {
                PauseGathering();
                try
                {
                    ChangeWithWritesHeld(change);
                }
                finally
                {
                    _target?.Resume();
                }
            }
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    private void ChangeWithWritesHeld(Action<SnapshotChanges> change)
    {
        using (_gate.Enter())
        {
            _map.HoldWrites();
            _changesSnapshots = true;
            try
            {
                change(new SnapshotChanges(_file, _geometry, _header, _caches, _gate));
            }
            finally
            {
                _changesSnapshots = false;
                Volatile.Write(ref _snapshotVersion, _snapshotVersion + 1);
                _map.ReleaseWrites();

                // Also after a failure: the tables may have moved before it.
                _caches.RebuildGuard();
            }
        }
    }

    /// <summary>The whole table in memory, for whoever changes it.</summary>
    private List<SnapshotEntry> LoadedSnapshots()
    {
        if (_snapshots is not null)
            return _snapshots;
        _snapshots = ReadSnapshots(_header.Current, out MemoryCharge charge);
        _snapshotCharge = charge;
        return _snapshots;
    }

    private List<SnapshotEntry> ReadSnapshots(Qcow2Header header, out MemoryCharge charge)
    {
        (int count, long bytes) = SnapshotTable.Measure(_file, header);
        charge = _caches.Memory.Take(
            MemoryBudget.ManagedFactor * ((count * BytesPerSnapshot) + (2 * bytes)), Name, "its snapshot table");
        try
        {
            return SnapshotTable.Read(_file, header);
        }
        catch
        {
            charge.Dispose();
            throw;
        }
    }

    private SnapshotEntry FindSnapshot(string nameOrId) =>
        SnapshotTable.Find(LoadedSnapshots(), nameOrId) ?? throw BlockException.About(
            Name, BlockErrorKind.NotFound, $"has no snapshot '{Printable.Text(nameOrId)}'");

    private long SizeOf(SnapshotEntry entry)
    {
        long size = entry.Info.DiskSize & ~511L;
        if (size < 0 || _geometry.L1EntriesFor(size) > (32L << 20) / 8)
            throw BlockException.About(Name, BlockErrorKind.TooLarge,
                $"snapshot '{Printable.Text(entry.Info.Name)}' claims a size of {entry.Info.DiskSize} bytes");
        return size;
    }

    private void RefuseExternalData()
    {
        if (_geometry.DataIsExternal)
            throw BlockException.About(Name, BlockErrorKind.NotSupported,
                "an image with an external data file cannot have snapshots");
    }
}
