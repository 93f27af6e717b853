// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>An open qcow2 image: the guest's view of it.</summary>
/// <remarks>
/// Any number of threads read and write at once. The gate, one monitor per image, guards all metadata; guest data is
/// read and written without it.
/// </remarks>
public sealed partial class Qcow2Device
    : BlockDevice, IOverlay, ISnapshots, IBitmaps, IResizable, IStillFile, IUnreferenced
{
    private readonly BlockDevice _file;
    private readonly BlockDevice _data;
    private readonly GuestData _guestData;
    private readonly HeaderStore _header;
    private readonly Qcow2Geometry _geometry;
    private readonly MetadataCaches _caches;
    private readonly ClusterMap _map;
    private readonly CompressedClusters _compressed;
    private readonly CowWriter _cow;
    private readonly DiscardMode _discard;
    private readonly PeriodicWork? _cleaner;
    private readonly ImageGate _gate = new();
    private long _length;
    private bool _isClosed;

    private Qcow2Device(
        BlockDevice file, Qcow2Header header, FormatOpenArguments arguments, GuestCipher? cipher)
    {
        _file = file;
        _data = arguments.DataFile ?? file;
        _header = new HeaderStore(file, header, _gate);
        _geometry = new Qcow2Geometry(header);
        _discard = arguments.Discard;
        _length = header.Size & ~511L;
        Backing = arguments.Backing;
        IsReadOnly = arguments.ReadOnly;
        if (IsRawExternal && !IsReadOnly)
            _data.KeepLength();
        _caches = new MetadataCaches(file, _header, _geometry, arguments, _gate, MarkCorrupt);
        _map = new ClusterMap(
            file, _geometry, _caches, _gate, Backing?.Length,
            keepsPlace: _discard == DiscardMode.NoUnref && header.Version >= 3);
        _compressed = new CompressedClusters(file, _geometry, header.Compression, _caches.Packed);
        _guestData = new GuestData(_data, cipher);
        _cow = new CowWriter(_guestData, this);
        _target = _caches.Packed is null ? null : new CompressedTarget(this, _geometry, arguments.CompressionThreads);
        _bitmapStore = new BitmapStore(file, _geometry, _header, _caches, _gate);
        _commitInterval = arguments.CommitInterval;
        if (_commitInterval > TimeSpan.Zero && !IsReadOnly)
            _commit = new Timer(Commit, state: null, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        if (arguments.CacheCleanInterval > TimeSpan.Zero)
            _cleaner = new PeriodicWork(arguments.CacheCleanInterval, DropIdleTables, NoteFailedCleaning);
    }

    /// <inheritdoc/>
    public override string Name => _file.Name;

    /// <summary>The virtual size, rounded down to a multiple of 512 as QEMU does.</summary>
    public override long Length => Volatile.Read(ref _length);

    /// <inheritdoc/>
    public override bool IsReadOnly { get; }

    /// <inheritdoc/>
    public BlockDevice? Backing { get; }

    /// <inheritdoc/>
    public override long AllocatedBytes =>
        ReferenceEquals(_file, _data) ? _file.AllocatedBytes : _file.AllocatedBytes + _data.AllocatedBytes;

    /// <summary>What the metadata caches did so far.</summary>
    public MetadataStatistics Statistics
    {
        get
        {
            using (_gate.Enter())
                return _caches.Statistics;
        }
    }

    /// <summary>Cluster size in bytes.</summary>
    public int ClusterSize => _geometry.ClusterSize;

    /// <summary>
    /// Opens the image in <paramref name="file"/>. The device owns <paramref name="file"/> and the devices in
    /// <paramref name="arguments"/> once this returns.
    /// </summary>
    /// <exception cref="BlockException">The image is invalid, unsupported, or must not be written.</exception>
    public static Qcow2Device Open(BlockDevice file, FormatOpenArguments arguments)
    {
        Qcow2Header header = Qcow2HeaderReader.Read(file);
        ImageReferences references = Qcow2Format.References(file, header);
        if (!arguments.ReadOnly && (header.RefcountFault ?? SnapshotTable.FaultOf(file, header)) is { } fault)
        {
            throw BlockException.About(
                file.Name, fault.Kind, fault.ReasonOrMessage, references.WriteRefusalCause);
        }

        if (!arguments.ReadOnly && (references.WriteRefusal ?? references.ReadOnlyReason) is { } reason)
            throw new BlockException(
                BlockErrorKind.UnsupportedFeature, $"{file.Name}: {reason}", cause: references.WriteRefusalCause);
        if (!arguments.ReadOnly && !arguments.AllowLoss && references.WriteLoss is { } loss)
            throw new BlockException(BlockErrorKind.UnsupportedFeature, $"{file.Name}: {loss}");
        if (header.HasExternalData != arguments.DataFile is not null)
            throw new BlockException(BlockErrorKind.InvalidFormat, header.HasExternalData
                ? $"{file.Name}: the external data file is missing"
                : $"{file.Name}: the image has no external data file");
        if (arguments is { ReadOnly: false, Compress: not CompressedWrites.Off })
            CheckCompression(file, header, arguments.Compress);
        if (!arguments.ReadOnly && header.IsDirty)
            header = RepairAtOpen(file, arguments);
        GuestCipher? cipher = GuestCipher.Open(file, header, arguments.Secrets);
        try
        {
            var device = new Qcow2Device(file, header, arguments, cipher);
            if (!arguments.ReadOnly)
                device.OpenForWriting(references.WriteLoss is not null);
            return device;
        }
        catch
        {
            cipher?.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        CheckRange(offset, destination.Length);
        try
        {
            if (_target is null)
                ReadGuest(new GuestOffset(offset), destination);
            else
                _target.Read(offset, destination);
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        if (offset < 0 || length < 0 || length > Reach - offset)
            throw BlockException.OutOfRange(Name, Length, offset, length);
        if (_target is not null && _target.TryGetExtent(offset, ref length, out Extent gathered))
            return gathered;
        ReadMapping mapping;
        using (_gate.Enter())
            mapping = _map.Lookup(new GuestOffset(offset), length);
        if (mapping.Kind == MappingKind.Data && _geometry.DataIsExternal)
            return ExternalExtent(offset, mapping.Length);
        return ToExtent(mapping, offset);
    }

    /// <inheritdoc/>
    public override DeviceRun GetRun(long offset, long length, bool joinsUnstored)
    {
        if (offset < 0 || length < 0 || length > Reach - offset)
            throw BlockException.OutOfRange(Name, Length, offset, length);
        if (_target is not null && _target.TryGetExtent(offset, ref length, out Extent gathered))
            return DeviceRun.Of(gathered);
        DeviceRun run = _map.FindRun(new GuestOffset(offset), length, joinsUnstored);

        // Which of it are holes, the data file knows.
        return run.Kind == RunKind.Stored && _geometry.DataIsExternal
            ? DeviceRun.Of(ExternalExtent(offset, run.Length)) : run;
    }

    /// <summary>What a lookup at <paramref name="offset"/> found, in the terms of a block device.</summary>
    internal Extent ToExtent(ReadMapping mapping, long offset)
    {
        ExtentKind kind = mapping.Kind switch
        {
            MappingKind.Data => ExtentKind.Data,
            MappingKind.Zero => ExtentKind.Zero,
            MappingKind.Compressed => ExtentKind.Compressed,
            _ => ExtentKind.Unallocated,
        };
        bool isPlain = kind == ExtentKind.Data && !_guestData.IsEncrypted;
        return new Extent(offset, mapping.Length, kind, isPlain ? mapping.Host.Value : -1, Depth: 0);
    }

    /// <summary>
    /// Whether the range reads as zeroes as far as metadata can tell, here and in the backing chain. What lies beyond
    /// the end of the disk does.
    /// </summary>
    internal bool ReadsAsZero(GuestOffset guest, long length)
    {
        length = Math.Min(length, Reach - guest.Value);
        while (length > 0)
        {
            Extent extent = BackingChain.GetExtent(this, guest.Value, length);
            if (extent.Kind is ExtentKind.Data or ExtentKind.Compressed)
                return false;
            guest += extent.Length;
            length -= extent.Length;
        }

        return true;
    }

    /// <summary>Reads what a copied head or tail holds; zeroes beyond the end of the disk.</summary>
    internal void ReadForCopy(GuestOffset guest, Span<byte> destination) => ReadForCopy(guest, destination, Reach);

    private void ReadForCopy(GuestOffset guest, Span<byte> destination, long end)
    {
        int inside = (int)Math.Clamp(end - guest.Value, 0, destination.Length);
        ReadGuest(guest, destination[..inside]);
        destination[inside..].Clear();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        using (_gate.Enter())
        {
            if (_isClosed)
                return;
        }

        _cleaner?.Dispose();
        StopCommit();
        _commit?.Dispose();
        try
        {
            _target?.EndPackers();

            // Who wrote was told when a flush failed, but not of what nobody has waited for.
            if (!IsReadOnly && !_caches.HasFailed)
                CloseMetadata();
            else if ((_target?.TakeFailure() ?? TakeCommitFailure()) is { } failure && !_isLossTold)
                throw failure;
        }
        finally
        {
            _target?.Dispose();
            _bitmaps?.Dispose();
            _snapshotCharge?.Dispose();
            _guestData.Dispose();
            _compressed.Dispose();
            using (_gate.Enter())
            {
                _isClosed = true;
                _caches.Dispose();
            }

            if (!ReferenceEquals(_file, _data))
                _data.Dispose();
            Backing?.Dispose();
            _file.Dispose();
            base.Dispose(disposing);
        }
    }

    private void DropIdleTables()
    {
        using (_gate.Enter())
        {
            if (!_isClosed)
                _caches.DropIdle();
        }
    }

    /// <summary>Nobody waits for it: the next flush passes on what is wrong with the tables.</summary>
    private void NoteFailedCleaning(Exception failure)
    {
        using (_gate.Enter())
        {
            _commitFailure ??= failure as BlockException ?? new BlockException(
                BlockErrorKind.Io, $"{Name}: tables could not be given up: {failure.Message}", failure);
        }
    }

    private void ReadGuest(GuestOffset guest, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            ReadMapping mapping;
            long epoch;
            using (_gate.Enter())
            {
                mapping = _map.Lookup(guest, destination.Length);
                epoch = _caches.Epochs.Enter();
            }

            Span<byte> part = destination[..(int)mapping.Length];
            try
            {
                ReadMapped(mapping, guest, part);
            }
            finally
            {
                _caches.Epochs.Exit(epoch);
            }

            destination = destination[part.Length..];
            guest += part.Length;
        }
    }

    /// <summary>Reads what a lookup found; the clusters must stay where they are meanwhile.</summary>
    internal void ReadMapped(ReadMapping mapping, GuestOffset guest, Span<byte> destination)
    {
        switch (mapping.Kind)
        {
            case MappingKind.Data:
                CheckInsideFile(mapping.Host, destination.Length, guest);
                _guestData.Read(guest, mapping.Host, destination);
                break;
            case MappingKind.Zero:
                destination.Clear();
                break;
            case MappingKind.Unallocated:
                if (Backing is null || guest.Value >= Backing.Length)
                    destination.Clear();
                else
                    Backing.ReadPadded(guest.Value, destination);
                break;
            case MappingKind.Compressed:
                _compressed.Read(mapping.Descriptor, _geometry.InCluster(guest), destination);
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(mapping), mapping.Kind, "Unknown kind of mapping.");
        }
    }

    /// <summary>
    /// The last cluster of a file may be cut off and reads as zeroes there; one that begins beyond the end was never
    /// written. An external data file may end anywhere.
    /// </summary>
    private void CheckInsideFile(HostOffset host, int length, GuestOffset guest)
    {
        if (_geometry.DataIsExternal)
            return;
        long lastCluster = (host.Value + length - 1) & ~_geometry.ClusterMask;
        if (lastCluster >= _file.Length)
            throw new BlockException(BlockErrorKind.Corrupt,
                $"{Name}: data cluster at {lastCluster} lies beyond the end of the file (guest offset {guest.Value})");
    }
}
