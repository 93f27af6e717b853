// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Snapshots;

/// <summary>The internal snapshots of an open image (specification section "Snapshots").</summary>
internal sealed class SnapshotSet : IDisposable
{
    /// <summary>Memory of the runtime for a snapshot beside its entry.</summary>
    private const long BytesPerSnapshot = 96;

    private readonly ImageCore _image;
    private readonly ImageGate _gate;
    private readonly ImageMetadata _metadata;
    private readonly WriteHold _hold;
    private readonly GuestReader _reader;
    private readonly BitmapLife _bitmaps;
    private readonly FirstWrite _firstWrite;
    private readonly IGathered? _gathered;

    // All with the gate held; the table is null until somebody needs all of it.
    private List<SnapshotEntry>? _entries;
    private MemoryCharge? _charge;
    private bool _isChanging;
    private long _version;

    public SnapshotSet(
        ImageCore image, ImageMetadata metadata, WriteHold hold, GuestReader reader, BitmapLife bitmaps,
        FirstWrite firstWrite, IGathered? gathered)
    {
        _image = image;
        _gate = image.Gate;
        _metadata = metadata;
        _hold = hold;
        _reader = reader;
        _bitmaps = bitmaps;
        _firstWrite = firstWrite;
        _gathered = gathered;
    }

    /// <summary>Counts the changes of the snapshots since the image was opened.</summary>
    public long Version => Volatile.Read(ref _version);

    /// <summary>The snapshots in the order of their table.</summary>
    /// <exception cref="BlockException">The snapshot table is invalid.</exception>
    public IReadOnlyList<SnapshotInfo> Infos
    {
        get
        {
            using (_gate.Enter())
                return [.. Loaded().Select(static entry => entry.Info)];
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
    public long Visit(int place, Func<SnapshotRecord, bool> visit)
    {
        Qcow2Header header;
        long version;
        long epoch;
        using (_gate.Enter())
        {
            while (_isChanging)
                _gate.Wait();
            header = _image.Header.Current;
            version = _version;

            // The clusters of a table that is replaced are not used for something else before this has ended.
            epoch = _metadata.Epochs.Enter();
        }

        try
        {
            foreach ((int at, SnapshotEntry entry) in SnapshotTable.Placed(_image.File, header, place))
            {
                if (!visit(new SnapshotRecord(at, entry.Info)))
                    break;
            }

            return version;
        }
        finally
        {
            _metadata.Epochs.Exit(epoch);
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
    public SnapshotInfo Create(string name)
    {
        SnapshotInfo? created = null;
        Change(changes =>
        {
            changes.Create(Loaded(), name, _image.Size.Length, all => _entries = all);
            created = _entries![^1].Info;
        });
        return created!;
    }

    /// <summary>
    /// Makes the disk what it was when a snapshot was taken, its size included. What was written since then is gone,
    /// unless another snapshot has it. Nobody should be writing meanwhile: what becomes of such a write is open.
    /// </summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NotFound"/>, or as
    /// <see cref="Create"/>.</exception>
    public void Apply(string nameOrId)
    {
        lock (_image.ChangeLock)
        {
            _firstWrite.Begin();
            using (_gate.Enter())
                _bitmaps.BeginResize(SizeOf(Find(nameOrId)));
            try
            {
                Change(changes =>
                {
                    SnapshotEntry entry = Find(nameOrId);
                    long size = SizeOf(entry);
                    changes.Apply(entry, size, () =>
                    {
                        _bitmaps.Resize(size);
                        _image.Size.Length = size;
                        _bitmaps.MarkWholeDisk();
                    });
                });
            }
            finally
            {
                using (_gate.Enter())
                    _bitmaps.EndResize();
            }
        }
    }

    /// <summary>Whether one of them is open; the gate is held.</summary>
    public bool AreRead => _entries?.Any(static entry => entry.Readers > 0) == true;

    /// <summary>Removes a snapshot and frees what only it used. Guest writes wait meanwhile.</summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NotFound"/>;
    /// <see cref="BlockErrorKind.Locked"/> while it is open (<see cref="Open"/>).</exception>
    public void Delete(string nameOrId) => Change(changes =>
    {
        SnapshotEntry entry = Find(nameOrId);
        if (entry.Readers > 0)
            throw BlockException.About(_image.Name, BlockErrorKind.Locked,
                $"snapshot '{Printable.Text(entry.Info.Name)}' is being read and cannot be deleted");
        changes.Delete(Loaded(), entry, left => _entries = left);
    });

    /// <summary>
    /// The disk as it was when a snapshot was taken, read-only and at its own size. Any number can be open while the
    /// disk itself is read and written. The caller disposes it before the image.
    /// </summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NotFound"/>, or the snapshot's L1 table is
    /// invalid.</exception>
    public BlockDevice Open(string nameOrId)
    {
        RefuseExternalData();
        SnapshotEntry entry = BeginReading(nameOrId);
        ResidentTable? l1 = null;
        try
        {
            // Without the gate, for which guests wait: a snapshot that has a reader stays where it is.
            long size = SizeOf(entry);
            new SnapshotChanges(_image, _metadata).CheckL1(entry);
            int entries = (int)Math.Min(entry.L1Size, _image.Geometry.L1EntriesFor(size));
            l1 = ResidentTable.Load(_image.File, entry.L1Offset, entries, _metadata.Memory);
            using (_gate.Enter())
            {
                var lookup = new ClusterLookup(_image, _metadata.Tables, new CheckedEntries(_image), l1);
                var runs = new RunFinder(_image, _metadata.Tables, lookup);
                return new SnapshotDevice(_image, _reader, entry, size, l1, lookup, runs);
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

    public void Dispose() => _charge?.Dispose();

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
                while (_isChanging)
                    _gate.Wait();
                if (_entries is not null)
                {
                    SnapshotEntry entry = Find(nameOrId);
                    entry.Readers++;
                    return entry;
                }

                // As in Visit.
                header = _image.Header.Current;
                version = _version;
                epoch = _metadata.Epochs.Enter();
            }

            List<SnapshotEntry> read;
            MemoryCharge charge;
            try
            {
                read = Read(header, out charge);
            }
            finally
            {
                _metadata.Epochs.Exit(epoch);
            }

            using (_gate.Enter())
            {
                if (_entries is null && !_isChanging && version == _version)
                    (_entries, _charge) = (read, charge);
                else
                    charge.Dispose();
            }
        }
    }

    /// <summary>Runs a change with writes held back, one at a time.</summary>
    private void Change(Action<SnapshotChanges> change)
    {
        RefuseExternalData();
        _firstWrite.Begin();
        _image.Corrupt.Guard(() =>
        {
            lock (_image.ChangeLock)
            {
                _gathered?.Pause();
                try
                {
                    ChangeWithWritesHeld(change);
                }
                finally
                {
                    _gathered?.Resume();
                }
            }
        });
    }

    private void ChangeWithWritesHeld(Action<SnapshotChanges> change)
    {
        using (_gate.Enter())
        {
            _hold.HoldWrites();
            _isChanging = true;
            try
            {
                change(new SnapshotChanges(_image, _metadata));
            }
            finally
            {
                _isChanging = false;
                Volatile.Write(ref _version, _version + 1);
                _hold.ReleaseWrites();

                // Also after a failure: the tables may have moved before it.
                _metadata.Survey.Rebuild();
            }
        }
    }

    /// <summary>The whole table in memory, for whoever changes it.</summary>
    private List<SnapshotEntry> Loaded()
    {
        _gate.AssertHeld();
        if (_entries is not null)
            return _entries;
        _entries = Read(_image.Header.Current, out MemoryCharge charge);
        _charge = charge;
        return _entries;
    }

    private List<SnapshotEntry> Read(Qcow2Header header, out MemoryCharge charge)
    {
        (int count, long bytes) = SnapshotTable.Measure(_image.File, header);
        charge = _metadata.Memory.Take(
            MemoryBudget.ManagedFactor * ((count * BytesPerSnapshot) + (2 * bytes)), _image.Name, "its snapshot table");
        try
        {
            return SnapshotTable.Read(_image.File, header);
        }
        catch
        {
            charge.Dispose();
            throw;
        }
    }

    private SnapshotEntry Find(string nameOrId) =>
        SnapshotTable.Find(Loaded(), nameOrId) ?? throw BlockException.About(
            _image.Name, BlockErrorKind.NotFound, $"has no snapshot '{Printable.Text(nameOrId)}'");

    private long SizeOf(SnapshotEntry entry)
    {
        long size = entry.Info.DiskSize & ~511L;
        if (size < 0 || _image.Geometry.L1EntriesFor(size) > (32L << 20) / 8)
            throw BlockException.About(_image.Name, BlockErrorKind.TooLarge,
                $"snapshot '{Printable.Text(entry.Info.Name)}' claims a size of {entry.Info.DiskSize} bytes");
        return size;
    }

    private void RefuseExternalData()
    {
        if (_image.Geometry.DataIsExternal)
            throw BlockException.About(_image.Name, BlockErrorKind.NotSupported,
                "an image with an external data file cannot have snapshots");
    }
}
