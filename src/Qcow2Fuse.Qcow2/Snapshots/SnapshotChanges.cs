// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Snapshots;

/// <summary>
/// Creates, applies and deletes snapshots. Each change takes effect by one write of the header, before which
/// everything it needs is durable and after which what it replaced is given up.
/// </summary>
/// <remarks>
/// Called with the image's gate held and writes held back. A failure before the header is written is taken back; one
/// after it leaves at most clusters that are counted and not used.
/// </remarks>
internal sealed class SnapshotChanges
{
    /// <summary>A new L1 table and a new snapshot table.</summary>
    private const int TablesOfChange = 2;

    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly HeaderStore _header;
    private readonly ImageMetadata _metadata;
    private readonly MappingTrees _trees;

    public SnapshotChanges(ImageCore image, ImageMetadata metadata)
    {
        _file = image.File;
        _geometry = image.Geometry;
        _header = image.Header;
        _metadata = metadata;
        _trees = new MappingTrees(_file, _geometry, metadata, image.Gate);
    }

    /// <summary>Adds a snapshot of the active disk.</summary>
    /// <param name="snapshots">Those there are.</param>
    /// <param name="name">Its name.</param>
    /// <param name="diskSize">The size of the disk in bytes.</param>
    /// <param name="adopt">Receives all of them, the new one last, once it is there.</param>
    public void Create(
        List<SnapshotEntry> snapshots, string name, long diskSize, Action<List<SnapshotEntry>> adopt)
    {
        Settle();
        ulong[] l1 = ActiveL1(_geometry.L1EntriesFor(diskSize));
        _metadata.Survey.Reserve(l1.Length + TablesOfChange);
        var undo = new Undo(this, l1);
        List<SnapshotEntry> changed;
        try
        {
            HostOffset l1Copy = undo.Allocate(l1.Length * 8L);
            string id = SnapshotTable.NextId(snapshots);
            changed = [.. snapshots, SnapshotTable.NewEntry(
                _file.Name, id, name, l1Copy, l1.Length, diskSize, DateTimeOffset.UtcNow)];
            byte[] table = SnapshotTable.Encode(_file.Name, changed);
            HostOffset tablePlace = undo.Allocate(table.Length);
            undo.Raise();
            WriteClusters(l1Copy, L1Bytes(l1));
            WriteClusters(tablePlace, table);
            _metadata.Flush.Run();

            // Were a flag still set on disk once the snapshot is there, another program would write to the snapshot.
            undo.ChangesFlags = true;
            for (int i = 0; i < l1.Length; i++)
            {
                if ((_metadata.Tables.L1[i] & L1Entry.Copied) != 0)
                    _metadata.Tables.L1[i] &= ~L1Entry.Copied;
            }

            _trees.ClearCopied(l1);
            _metadata.Flush.Run();
            UpdateHeader(undo, header => header with
            {
                SnapshotCount = changed.Count,
                SnapshotsOffset = tablePlace.Value,
            });
        }
        catch
        {
            undo.Run();
            throw;
        }

        adopt(changed);
        FreeTable(undo.OldTable, snapshots);
        Settle();
    }

    /// <summary>Removes a snapshot that nobody reads, and frees what only it used.</summary>
    /// <param name="snapshots">All of them.</param>
    /// <param name="gone">The one to remove.</param>
    /// <param name="adopt">Receives what is left once the snapshot is gone, also where freeing fails.</param>
    public void Delete(List<SnapshotEntry> snapshots, SnapshotEntry gone, Action<List<SnapshotEntry>> adopt)
    {
        Settle();
        ulong[] l1 = LoadL1(gone, gone.L1Size);
        _trees.Validate(l1);
        _trees.Validate(ActiveL1(_metadata.Tables.L1.Count));
        List<SnapshotEntry> changed = [.. snapshots.Where(entry => entry != gone)];
        var undo = new Undo(this, []);
        try
        {
            byte[] table = SnapshotTable.Encode(_file.Name, changed);
            HostOffset tablePlace = undo.Allocate(table.Length);
            WriteClusters(tablePlace, table);
            _metadata.Flush.Run();
            UpdateHeader(undo, header => header with
            {
                SnapshotCount = changed.Count,
                SnapshotsOffset = tablePlace.Value,
            });
        }
        catch
        {
            undo.Run();
            throw;
        }

        adopt(changed);
        FreeTable(undo.OldTable, snapshots);
        FreeRun(gone.L1Offset, gone.L1Size * 8);
        _trees.Free(l1);
        Settle();

        // Only now: a flag that is set while the count on disk is two would be wrong for everybody who looks.
        _trees.SetCopiedInActive();
        _metadata.Flush.Run();
    }

    /// <summary>Makes the disk what it was when a snapshot was taken. What it was before is gone.</summary>
    /// <param name="snapshot">The one to apply; it stays.</param>
    /// <param name="diskSize">Its size in bytes.</param>
    /// <param name="atSwitch">Called at the moment the disk becomes the snapshot's.</param>
    public void Apply(SnapshotEntry snapshot, long diskSize, Action atSwitch)
    {
        Settle();
        ulong[] old = ActiveL1(_metadata.Tables.L1.Count);
        _trees.Validate(old);
        HostOffset oldPlace = _metadata.Tables.L1.Offset;

        // Entries behind the disk's are machine state, which no guest reaches.
        long entries = Math.Max(1, _geometry.L1EntriesFor(diskSize));
        ulong[] l1 = LoadL1(snapshot, entries);
        _metadata.Survey.Reserve(l1.Length + TablesOfChange);
        var undo = new Undo(this, l1);
        try
        {
            HostOffset place = undo.Allocate(entries * 8);
            undo.Raise();
            WriteClusters(place, L1Bytes(l1));
            _metadata.Flush.Run();

            // Flags mean something in the active tables only: who made the snapshot may have left some in its tables.
            _trees.ClearCopied(l1);
            _metadata.Flush.Run();
            Switch(undo, place, l1.Length, diskSize, atSwitch);
        }
        catch
        {
            undo.Run();
            throw;
        }

        FreeRun(oldPlace, old.Length * 8L);
        _trees.Free(old);
        Settle();
    }

    /// <summary>
    /// Reads a snapshot's L1 table, its flags cleared, cut or padded with zeroes to a number of entries.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/>: it lies where none can be.</exception>
    public ulong[] LoadL1(SnapshotEntry snapshot, long entries)
    {
        CheckL1(snapshot);
        long stored = Math.Min(entries, snapshot.L1Size);
        var bytes = new byte[stored * 8];
        _file.Read(snapshot.L1Offset.Value, bytes);
        var l1 = new ulong[entries];
        for (int i = 0; i < stored; i++)
            l1[i] = BigEndian.U64(bytes, i * 8) & L1Entry.OffsetMask;
        return l1;
    }

    /// <summary>Throws unless a snapshot's L1 table lies where one can be.</summary>
    public void CheckL1(SnapshotEntry snapshot)
    {
        const long EntriesMax = (32L << 20) / 8;
        string name = Printable.Text(snapshot.Info.Name);
        if (snapshot.L1Size > EntriesMax)
            throw BlockException.About(
                _file.Name, BlockErrorKind.TooLarge, $"the L1 table of snapshot '{name}' is too large");
        if ((snapshot.L1Offset.Value & _geometry.ClusterMask) != 0
            || snapshot.L1Offset.Value < 0 || (snapshot.L1Offset.Value == 0 && snapshot.L1Size > 0)
            || snapshot.L1Offset.Value > _file.Length - (snapshot.L1Size * 8))
            throw BlockException.About(_file.Name, BlockErrorKind.Corrupt,
                $"the L1 table of snapshot '{name}' at {snapshot.L1Offset.Value} is not in the file");
    }

    /// <summary>Flushes until nothing waits to be freed and what was freed is durable.</summary>
    private void Settle()
    {
        _metadata.Flush.Run();
        if (!_metadata.Frees.Any)
            return;
        while (_metadata.Frees.Any)
            _metadata.Flush.RunAndFree();
        _metadata.Flush.Run();
    }

    private void Switch(Undo undo, HostOffset place, int entries, long diskSize, Action atSwitch)
    {
        _metadata.Flush.BeginExclusive();
        try
        {
            ResidentTable table = ResidentTable.Load(_file, place, entries, _metadata.Memory);
            try
            {
                UpdateHeader(undo, header => header with
                {
                    L1Size = entries,
                    L1Offset = place.Value,
                    Size = diskSize,
                });
            }
            catch
            {
                table.Dispose();
                throw;
            }

            _metadata.Tables.SwitchL1(table);
            atSwitch();
        }
        finally
        {
            _metadata.Flush.EndExclusive();
        }
    }

    /// <summary>
    /// Changes the header and makes that durable. A write that failed may have changed the file nevertheless: unless
    /// the old fields can be put back, the change counts as done on disk, and nothing it needs is taken back.
    /// </summary>
    private void UpdateHeader(Undo undo, Func<Qcow2Header, Qcow2Header> change)
    {
        undo.IsPossible = false;
        try
        {
            _metadata.Durable.UpdateHeader(change);
        }
        catch (BlockException) when (!_metadata.Durable.HasFailed)
        {
            undo.IsPossible = true;
            throw;
        }
    }

    private ulong[] ActiveL1(long entries)
    {
        var l1 = new ulong[entries];
        for (int i = 0; i < entries; i++)
            l1[i] = _metadata.Tables.L1[i] & L1Entry.OffsetMask;
        return l1;
    }

    private static byte[] L1Bytes(ulong[] l1)
    {
        var bytes = new byte[l1.Length * 8];
        for (int i = 0; i < l1.Length; i++)
            BigEndian.U64(bytes, i * 8, l1[i]);
        return bytes;
    }

    /// <summary>Writes a table and zeroes up to the end of its last cluster.</summary>
    private void WriteClusters(HostOffset place, byte[] bytes)
    {
        if (bytes.Length == 0)
            return;
        _file.Write(place.Value, bytes);
        long padding = _geometry.RoundUpToCluster(bytes.Length) - bytes.Length;
        if (padding > 0)
            _file.WriteZeroes(place.Value + bytes.Length, padding, mayUnmap: false);
    }

    private void FreeTable(long offset, List<SnapshotEntry> entries) =>
        FreeRun(new HostOffset(offset), SnapshotTable.BytesOf(entries));

    private void FreeRun(HostOffset place, long bytes)
    {
        int clusters = (int)(_geometry.RoundUpToCluster(bytes) >> _geometry.ClusterBits);
        if (clusters > 0)
            _metadata.Frees.Add(place, clusters, _metadata.Epochs.Current, isTable: true);
    }

    /// <summary>What has to be taken back where a change fails before it took effect.</summary>
    private sealed class Undo(SnapshotChanges owner, ulong[] l1)
    {
        private readonly List<(HostOffset Place, int Clusters)> _allocated = [];
        private long _raised;

        /// <summary>The snapshot table before the change.</summary>
        public long OldTable { get; } = owner._header.Current.SnapshotsOffset;

        /// <summary>Whether it is certain that nothing on disk needs what would be taken back.</summary>
        public bool IsPossible { get; set; } = true;

        /// <summary>COPIED flags of the active disk may have been cleared.</summary>
        public bool ChangesFlags { get; set; }

        /// <summary>Allocates clusters for a table; nothing, and offset 0, for an empty one.</summary>
        public HostOffset Allocate(long bytes)
        {
            int clusters = (int)(owner._geometry.RoundUpToCluster(bytes) >> owner._geometry.ClusterBits);
            if (clusters == 0)
                return default;
            HostOffset place = owner._metadata.Allocator.Allocate(clusters).Start;
            _allocated.Add((place, clusters));
            return place;
        }

        public void Raise() => owner._trees.Raise(l1, ref _raised);

        /// <summary>
        /// Takes back what can be. Where that fails too, clusters stay counted that nothing uses; the caller reports
        /// the failure that came first.
        /// </summary>
        public void Run()
        {
            if (!IsPossible || owner._metadata.Durable.HasFailed)
                return;
            try
            {
                if (_raised > 0)
                    owner._trees.Lower(l1, _raised);
                _raised = 0;
                foreach ((HostOffset place, int clusters) in _allocated)
                    owner._metadata.Allocator.FreeUnlinked(place, clusters);
                _allocated.Clear();
                if (ChangesFlags)
                    owner._trees.SetCopiedInActive();
                owner._metadata.Flush.Run();
            }
            catch (BlockException)
            {
                // Counts that are too high and flags that are missing cost space and copies, nothing else.
            }
        }
    }
}
