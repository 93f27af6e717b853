// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>Reads the disk, and says what it is made of.</summary>
/// <remarks>
/// What the tables say is looked up with the gate held, and the epoch entered in the same critical section; the bytes
/// are read without the gate.
/// </remarks>
internal sealed class GuestReader : IGuestReader
{
    private readonly ImageCore _image;
    private readonly BlockDevice _file;
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly DiskSize _size;
    private readonly OperationEpochs _epochs;
    private readonly ClusterLookup _lookup;
    private readonly RunFinder _runs;
    private readonly GuestData _guestData;
    private readonly CompressedClusters _compressed;
    private readonly ExternalData _external;
    private readonly GatheredSlots? _gathered;

    /// <param name="image">The image.</param>
    /// <param name="epochs">Keep clusters that are read from being used again.</param>
    /// <param name="lookup">The tables of the disk.</param>
    /// <param name="runs">Finds runs in them.</param>
    /// <param name="guestData">Reads clusters.</param>
    /// <param name="compressed">Reads compressed clusters.</param>
    /// <param name="external">Knows an external data file.</param>
    /// <param name="gathered">What extents tell of before the tables do; null where writes are not compressed.</param>
    public GuestReader(
        ImageCore image, OperationEpochs epochs, ClusterLookup lookup, RunFinder runs, GuestData guestData,
        CompressedClusters compressed, ExternalData external, GatheredSlots? gathered)
    {
        _image = image;
        _file = image.File;
        _geometry = image.Geometry;
        _gate = image.Gate;
        _size = image.Size;
        _epochs = epochs;
        _lookup = lookup;
        _runs = runs;
        _guestData = guestData;
        _compressed = compressed;
        _external = external;
        _gathered = gathered;
    }

    /// <summary>Reads what the tables say, without what is gathered.</summary>
    public void Read(GuestOffset guest, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            ReadMapping mapping;
            long epoch;
            using (_gate.Enter())
            {
                mapping = _lookup.Lookup(guest, destination.Length);
                epoch = _epochs.Enter();
            }

            Span<byte> part = destination[..(int)mapping.Length];
            try
            {
                // What is read most needs no call more.
                if (mapping.Kind == MappingKind.Data)
                {
                    CheckInsideFile(mapping.Host, part.Length, guest);
                    _guestData.Read(guest, mapping.Host, part);
                }
                else
                {
                    ReadMapped(mapping, guest, part);
                }
            }
            finally
            {
                _epochs.Exit(epoch);
            }

            destination = destination[part.Length..];
            guest += part.Length;
        }
    }

    /// <summary>Reads what a lookup found; the clusters must stay where they are meanwhile.</summary>
    public void ReadMapped(ReadMapping mapping, GuestOffset guest, Span<byte> destination)
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
                BlockDevice? backing = _image.Backing;
                if (backing is null || guest.Value >= backing.Length)
                    destination.Clear();
                else
                    backing.ReadPadded(guest.Value, destination);
                break;
            case MappingKind.Compressed:
                _compressed.Read(mapping.Descriptor, _geometry.InCluster(guest), destination);
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(mapping), mapping.Kind, "Unknown kind of mapping.");
        }
    }

    /// <inheritdoc/>
    public void ReadForCopy(GuestOffset guest, Span<byte> destination) => ReadUpTo(_size.Reach, guest, destination);

    /// <summary>
    /// What the tables say about a range, without what is gathered; zeroes beyond the end. That is the end the guest
    /// sees: space that the disk is growing by holds old bytes until it is zeroed, which whoever completes a cluster
    /// would put back.
    /// </summary>
    public void ReadStored(GuestOffset guest, Span<byte> destination) => ReadUpTo(_size.Length, guest, destination);

    /// <summary>As <see cref="BlockDevice.GetExtent"/>, also in the space that the disk grows by.</summary>
    public Extent GetExtent(long offset, long length)
    {
        CheckReach(offset, length);
        if (_gathered is not null && _gathered.TryGetExtent(offset, ref length, out Extent gathered))
            return gathered;
        ReadMapping mapping;
        using (_gate.Enter())
            mapping = _lookup.Lookup(new GuestOffset(offset), length);
        if (mapping.Kind == MappingKind.Data && _geometry.DataIsExternal)
            return _external.GetExtent(offset, mapping.Length);
        return ToExtent(mapping, offset);
    }

    /// <summary>As <see cref="BlockDevice.GetRun"/>, also in the space that the disk grows by.</summary>
    public DeviceRun GetRun(long offset, long length, bool joinsUnstored)
    {
        CheckReach(offset, length);
        if (_gathered is not null && _gathered.TryGetExtent(offset, ref length, out Extent gathered))
            return DeviceRun.Of(gathered);
        DeviceRun run = _runs.FindRun(new GuestOffset(offset), length, joinsUnstored);

        // Which of it are holes, the data file knows.
        return run.Kind == RunKind.Stored && _geometry.DataIsExternal
            ? DeviceRun.Of(_external.GetExtent(offset, run.Length)) : run;
    }

    /// <summary>What a lookup at <paramref name="offset"/> found, in the terms of a block device.</summary>
    public Extent ToExtent(ReadMapping mapping, long offset)
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

    /// <inheritdoc/>
    public bool ReadsAsZero(GuestOffset guest, long length)
    {
        length = Math.Min(length, _size.Reach - guest.Value);
        while (length > 0)
        {
            Extent extent = ExtentInChain(guest.Value, length);
            if (extent.Kind is ExtentKind.Data or ExtentKind.Compressed)
                return false;
            guest += extent.Length;
            length -= extent.Length;
        }

        return true;
    }

    /// <summary>
    /// Whether a range that reads as zeroes, within a cluster, does so whatever becomes of the backing file.
    /// </summary>
    public bool IsZeroSaid(GuestOffset guest, long length)
    {
        if (_image.Backing is null)
            return true;
        using (_gate.Enter())
        {
            for (GuestOffset at = guest; at - guest < length;)
            {
                ReadMapping mapping = _lookup.Lookup(at, length - (at - guest));
                if (mapping.Kind == MappingKind.Unallocated)
                    return false;
                at += mapping.Length;
            }

            return true;
        }
    }

    private void ReadUpTo(long end, GuestOffset guest, Span<byte> destination)
    {
        int inside = (int)Math.Clamp(end - guest.Value, 0, destination.Length);
        Read(guest, destination[..inside]);
        destination[inside..].Clear();
    }

    /// <summary>
    /// What <see cref="BackingChain.GetExtent"/> would say of the image, but for the depth.
    /// </summary>
    private Extent ExtentInChain(long offset, long length)
    {
        Extent extent = GetExtent(offset, length);
        if (extent.Length < length && extent.Kind is ExtentKind.Zero or ExtentKind.Unallocated)
        {
            // What it is may have changed since.
            DeviceRun run = GetRun(offset, length, joinsUnstored: false);
            if (run.Kind == DeviceRun.Of(extent).Kind && run.Length > extent.Length)
                extent = extent with { Length = run.Length };
        }

        BlockDevice? backing = _image.Backing;
        return extent.Kind != ExtentKind.Unallocated || backing is null || offset >= backing.Length
            ? extent : BackingChain.GetExtent(backing, offset, Math.Min(extent.Length, backing.Length - offset));
    }

    private void CheckReach(long offset, long length)
    {
        if (offset < 0 || length < 0 || length > _size.Reach - offset)
            throw BlockException.OutOfRange(_file.Name, _size.Length, offset, length);
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
            throw new BlockException(BlockErrorKind.Corrupt, $"{_file.Name}: data cluster at {lastCluster} lies "
                + $"beyond the end of the file (guest offset {guest.Value})");
    }
}
