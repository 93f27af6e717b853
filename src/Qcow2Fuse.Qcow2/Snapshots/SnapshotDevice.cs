// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Snapshots;

/// <summary>
/// The disk as it was when a snapshot was taken, at its own size, read through the open image.
/// </summary>
/// <remarks>
/// Shares the image's cache of L2 slices: tables of a snapshot are never changed but for flags nobody reads here. Its
/// clusters stay where they are because a snapshot that is read cannot be deleted. Disposed before the image.
/// </remarks>
internal sealed class SnapshotDevice : BlockDevice, IOverlay
{
    private readonly ImageCore _image;
    private readonly GuestReader _reader;
    private readonly SnapshotEntry _entry;
    private readonly ResidentTable _l1;
    private readonly ClusterLookup _lookup;
    private readonly RunFinder _runs;
    private readonly ImageGate _gate;

    /// <summary>
    /// Called with the gate held, as is <paramref name="lookup"/>'s way, for a reader that <paramref name="entry"/> has
    /// counted.
    /// </summary>
    public SnapshotDevice(
        ImageCore image, GuestReader reader, SnapshotEntry entry, long length, ResidentTable l1,
        ClusterLookup lookup, RunFinder runs)
    {
        _image = image;
        _reader = reader;
        _entry = entry;
        _l1 = l1;
        _lookup = lookup;
        _runs = runs;
        _gate = image.Gate;
        _gate.AssertHeld();
        Length = length;
    }

    /// <inheritdoc/>
    public override string Name => $"{_image.Name} (snapshot '{Printable.Text(_entry.Info.Name)}')";

    /// <summary>The size of the disk when the snapshot was taken.</summary>
    public override long Length { get; }

    /// <inheritdoc/>
    public override bool IsReadOnly => true;

    /// <inheritdoc/>
    public BlockDevice? Backing => _image.Backing;

    /// <inheritdoc/>
    public override long AllocatedBytes => _image.AllocatedBytes;

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        CheckRange(offset, destination.Length);
        var guest = new GuestOffset(offset);
        while (!destination.IsEmpty)
        {
            ReadMapping mapping;
            using (_gate.Enter())
                mapping = _lookup.Lookup(guest, destination.Length);
            Span<byte> part = destination[..(int)mapping.Length];
            _reader.ReadMapped(mapping, guest, part);
            destination = destination[part.Length..];
            guest += part.Length;
        }
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        CheckRange(offset, length);
        ReadMapping mapping;
        using (_gate.Enter())
            mapping = _lookup.Lookup(new GuestOffset(offset), length);
        return _reader.ToExtent(mapping, offset);
    }

    /// <inheritdoc/>
    public override DeviceRun GetRun(long offset, long length, bool joinsUnstored)
    {
        CheckRange(offset, length);
        return _runs.FindRun(new GuestOffset(offset), length, joinsUnstored);
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source) => CheckWritable();

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap) => CheckWritable();

    /// <inheritdoc/>
    public override void Discard(long offset, long length) => CheckWritable();

    /// <inheritdoc/>
    public override void Resize(long length) => CheckWritable();

    /// <inheritdoc/>
    public override void Flush()
    {
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        using (_gate.Enter())
            _entry.Readers--;
        _l1.Dispose();
        base.Dispose(disposing);
    }
}
