// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Qcow2.Gathering;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;
using Qcow2Fuse.Qcow2.Resizing;
using Qcow2Fuse.Qcow2.Snapshots;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>The parts of an open image: made one on top of the other, and ended.</summary>
internal sealed class ImageParts
{
    private readonly CompressedClusters _compressed;
    private readonly GuestData _guestData;
    private readonly IdleTables _idle;
    private bool _isClosed;

    /// <param name="device">The face of the parts.</param>
    /// <param name="file">The image file, which is theirs from now on, as the devices of the arguments are.</param>
    /// <param name="header">Its header.</param>
    /// <param name="arguments">How the image is opened.</param>
    /// <param name="cipher">How the disk is encrypted, or null.</param>
    public ImageParts(
        BlockDevice device, BlockDevice file, Qcow2Header header, FormatOpenArguments arguments, GuestCipher? cipher)
    {
        Image = new ImageCore(file, header, arguments);
        Qcow2Geometry geometry = Image.Geometry;
        Qcow2Options options = arguments.For<Qcow2Options>();
        if (Image.IsRawExternal && !Image.IsReadOnly)
            Image.Data.KeepLength();
        ImageMetadata = new ImageMetadata(Image, arguments);
        DurableFile durable = ImageMetadata.Durable;
        OperationEpochs epochs = ImageMetadata.Epochs;
        ActiveMap map = new(
            Image, ImageMetadata, keepsPlace: arguments.Discard == DiscardMode.NoUnref && header.Version >= 3);
        _compressed = new CompressedClusters(file, geometry, header.Compression, ImageMetadata.PackedBytes);
        _guestData = new GuestData(Image.Data, cipher);
        GatheredSlots? slots = ImageMetadata.PackedBytes is null ? null : new GatheredSlots(geometry, Image.Size);
        BitmapLife = new BitmapLife(Image, ImageMetadata);
        FirstWrite = new FirstWrite(Image, durable, ImageMetadata.Survey, ImageMetadata.Flush, BitmapLife);
        Commit = new CommitTimer(Image, durable, ImageMetadata.Flush, slots, arguments.CommitInterval);
        Freed = new FreedSpace(Image.Gate, ImageMetadata.Frees, ImageMetadata.Flush, geometry.ClusterBits);
        ExternalData external = new(Image, durable, epochs, map.InPlace, _guestData);
        Reader = new GuestReader(Image, epochs, map.Lookup, map.Runs, _guestData, _compressed, external, slots);
        Writer = new GuestWriter(
            Image, durable, epochs, map.Allocations, _guestData, Reader, BitmapLife, Commit, Freed);
        Zeroes = new GuestZeroes(Image, durable, map.Zeroes, Reader, Writer, external, BitmapLife, Commit, Freed);
        if (slots is not null)
        {
            StoredClusters stored = new(
                Image, durable, ImageMetadata.Flush, ImageMetadata.PackedBytes!, map.Compressed!, _compressed, Reader,
                Writer, Zeroes, BitmapLife, Commit, Freed);
            Target = new CompressedTarget(
                Image, slots, stored, Reader, Zeroes, BitmapLife, Commit, options.CompressionThreads);
        }

        Plain = new PlainRuns(
            device, Image, ImageMetadata, map.Lookup, map.InPlace, BitmapLife, FirstWrite,
            isPossible: Target is null && !_guestData.IsEncrypted);
        Flusher = new Flusher(Image, durable, ImageMetadata.Flush, map.Kept, Target, BitmapLife, FirstWrite);
        Bitmaps = new ImageBitmaps(Image, ImageMetadata, map.Hold, BitmapLife, Target);
        Snapshots = new SnapshotSet(Image, ImageMetadata, map.Hold, Reader, BitmapLife, FirstWrite, Target);
        Preallocator preallocator = new(Image, durable, epochs, map.Allocations, _guestData);
        DiskGrowth growth = new(Image, ImageMetadata, Zeroes, preallocator, BitmapLife, Flusher);
        DiskShrink shrink = new(Image, ImageMetadata, map.Hold, map.Cut, BitmapLife, Target);
        Resizer = new Resizer(Image, growth, shrink, BitmapLife, FirstWrite, Target);
        Still = new StillLook(Image, ImageMetadata.Flush, map.Hold, BitmapLife, Flusher);
        Unreferenced = new UnreferencedLook(Image, ImageMetadata, map.Hold, Still);
        BackingChange = new BackingChange(Image, Snapshots, Target);
        Commit.Start(Flusher);
        _idle = new IdleTables(Image, ImageMetadata.Tables, Commit, options.CacheCleanInterval);
    }

    public ImageCore Image { get; }

    public ImageMetadata ImageMetadata { get; }

    public BitmapLife BitmapLife { get; }

    public FirstWrite FirstWrite { get; }

    public CommitTimer Commit { get; }

    public FreedSpace Freed { get; }

    public GuestReader Reader { get; }

    public GuestWriter Writer { get; }

    public GuestZeroes Zeroes { get; }

    /// <summary>Gathers writes into whole clusters; null where writes are not compressed.</summary>
    public CompressedTarget? Target { get; }

    public PlainRuns Plain { get; }

    public Flusher Flusher { get; }

    public ImageBitmaps Bitmaps { get; }

    public SnapshotSet Snapshots { get; }

    public Resizer Resizer { get; }

    public StillLook Still { get; }

    public UnreferencedLook Unreferenced { get; }

    public BackingChange BackingChange { get; }

    /// <summary>Has all parts ready to be written; where that fails, they are ended, and the files are left open.
    /// </summary>
    /// <param name="dropsBitmaps">The bitmaps cannot be kept and the user gives them up.</param>
    public void OpenForWriting(bool dropsBitmaps)
    {
        try
        {
            FirstWrite.Reserve(dropsBitmaps);
        }
        catch
        {
            _idle.Dispose();
            Commit.Dispose();
            BitmapLife.Dispose();
            Target?.Dispose();
            _compressed.Dispose();
            ImageMetadata.Dispose();
            throw;
        }
    }

    /// <summary>Makes all durable, ends the parts, and closes the files. Once; later calls do nothing.</summary>
    /// <exception cref="BlockException">Something could not be made durable, of which nobody was told.</exception>
    public void Close()
    {
        using (Image.Gate.Enter())
        {
            if (_isClosed)
                return;
        }

        _idle.Dispose();
        Commit.Stop();
        try
        {
            Target?.EndPackers();

            // Who wrote was told when a flush failed, but not of what nobody has waited for.
            if (!Image.IsReadOnly && !ImageMetadata.Durable.HasFailed)
                Flusher.FlushForClose();
            else if ((Target?.TakeFailure() ?? Commit.TakeFailure()) is { } failure && !Flusher.IsLossTold)
                throw failure;
        }
        finally
        {
            Target?.Dispose();
            BitmapLife.Dispose();
            Snapshots.Dispose();
            _guestData.Dispose();
            _compressed.Dispose();
            using (Image.Gate.Enter())
            {
                _isClosed = true;
                ImageMetadata.Dispose();
            }

            Image.Dispose();
        }
    }
}
