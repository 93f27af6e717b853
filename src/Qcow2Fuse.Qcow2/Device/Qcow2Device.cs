// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Access;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Qcow2.Gathering;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;
using Qcow2Fuse.Qcow2.Resizing;
using Qcow2Fuse.Qcow2.Snapshots;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>An open qcow2 image: the guest's view of it.</summary>
/// <remarks>
/// Any number of threads read and write at once. The gate, one monitor per image, guards all metadata; guest data is
/// read and written without it. This is the face of the parts that do the work; none of them knows it.
/// </remarks>
public sealed class Qcow2Device
    : BlockDevice, IRebasable, ISnapshots, IBitmaps, IResizable, IStillFile, IUnreferenced
{
    private readonly ImageParts _parts;
    private readonly ImageCore _image;
    private readonly FirstWrite _firstWrite;
    private readonly GuestReader _reader;
    private readonly GuestWriter _writer;
    private readonly PlainRuns _plain;
    private readonly DiscardMode _discard;

    /// <summary>Gathers writes into whole clusters; null where writes are not compressed.</summary>
    private readonly CompressedTarget? _target;

    private Qcow2Device(
        BlockDevice file, Qcow2Header header, FormatOpenArguments arguments, GuestCipher? cipher)
    {
        _parts = new ImageParts(this, file, header, arguments, cipher);
        _image = _parts.Image;
        _firstWrite = _parts.FirstWrite;
        _reader = _parts.Reader;
        _writer = _parts.Writer;
        _plain = _parts.Plain;
        _target = _parts.Target;
        _discard = arguments.Discard;
    }

    /// <inheritdoc/>
    public override string Name => _image.Name;

    /// <summary>The virtual size, rounded down to a multiple of 512 as QEMU does.</summary>
    public override long Length => _image.Size.Length;

    /// <inheritdoc/>
    public override bool IsReadOnly => _image.IsReadOnly;

    /// <inheritdoc/>
    public BlockDevice? Backing => _image.Backing;

    /// <inheritdoc/>
    public override long AllocatedBytes => _image.AllocatedBytes;

    /// <summary>Cluster size in bytes.</summary>
    public int ClusterSize => _image.Geometry.ClusterSize;

    /// <summary>What the metadata caches did so far.</summary>
    public MetadataStatistics Statistics
    {
        get
        {
            MetadataTables tables = _parts.ImageMetadata.Tables;
            using (_image.Gate.Enter())
            {
                return new MetadataStatistics(
                    tables.L2.Statistics, tables.RefcountBlocks.Statistics, _parts.ImageMetadata.Flush.Completed);
            }
        }
    }

    /// <inheritdoc/>
    public long SnapshotVersion => _parts.Snapshots.Version;

    /// <inheritdoc/>
    public IReadOnlyList<SnapshotInfo> Snapshots => _parts.Snapshots.Infos;

    /// <inheritdoc/>
    public IReadOnlyList<BitmapInfo> Bitmaps => _parts.Bitmaps.Infos;

    /// <summary>
    /// The granularity of a bitmap for which none is chosen: the cluster size within 4 KiB and 64 KiB, as in QEMU.
    /// </summary>
    public int DefaultBitmapGranularity => _parts.Bitmaps.DefaultGranularity;

    /// <summary>Whether nothing more is written, because what the file holds is not known.</summary>
    internal bool HasFailed => _parts.ImageMetadata.Durable.HasFailed;

    /// <summary>Whether the image will be flushed by itself.</summary>
    internal bool IsCommitSet => _parts.Commit.IsSet;

    /// <summary>
    /// Opens the image in <paramref name="file"/>. The device owns <paramref name="file"/> and the devices in
    /// <paramref name="arguments"/> once this returns.
    /// </summary>
    /// <exception cref="BlockException">The image is invalid, unsupported, or must not be written.</exception>
    public static Qcow2Device Open(BlockDevice file, FormatOpenArguments arguments)
    {
        Qcow2Header header = OpenChecks.Pass(file, arguments, out bool isLossy);
        GuestCipher? cipher = GuestCipher.Open(file, header, arguments.Secrets);
        try
        {
            Qcow2Device device = new(file, header, arguments, cipher);
            if (!arguments.ReadOnly)
                device._parts.OpenForWriting(isLossy);
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
                _reader.Read(new GuestOffset(offset), destination);
            else
                _target.Read(offset, destination);
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            _image.Corrupt.Set();
            throw;
        }
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        BeginWrite(offset, source.Length);
        try
        {
            if (_target is null)
                _writer.Write(new GuestOffset(offset), source);
            else
                _target.Write(offset, source);
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            _image.Corrupt.Set();
            throw;
        }
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        if (IsReadOnly)
            return;

        // The guest is told by this flush of one that nobody has waited for, also if all is durable by now.
        BlockException? earlier = _parts.Commit.TakeFailure();
        _parts.Flusher.Flush();
        if (earlier is not null)
            throw earlier;
    }

    /// <inheritdoc/>
    /// <remarks>Whole subclusters are zeroed by metadata, the edges by writing zeroes where they hold data.</remarks>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        BeginWrite(offset, length);
        Clear(offset, length, isDiscard: false, mayUnmap && _discard != DiscardMode.Ignore);
    }

    /// <inheritdoc/>
    /// <remarks>
    /// Whole subclusters become zeroes, never holes through which a backing file shows; the rest of the range is left
    /// as it is.
    /// </remarks>
    public override void Discard(long offset, long length)
    {
        BeginWrite(offset, length);
        if (_discard != DiscardMode.Ignore)
            Clear(offset, length, isDiscard: true, mayUnmap: true);
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length) => _reader.GetExtent(offset, length);

    /// <inheritdoc/>
    public override DeviceRun GetRun(long offset, long length, bool joinsUnstored) =>
        _reader.GetRun(offset, length, joinsUnstored);

    /// <inheritdoc/>
    public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run) =>
        _plain.TryBegin(offset, length, isWrite, out run);

    /// <inheritdoc/>
    public override void EndPlain(in PlainRun run) => _plain.End(run);

    /// <inheritdoc/>
    /// <remarks>New space reads as zeroes and takes no storage.</remarks>
    public override void Resize(long length) => Resize(length, Preallocation.Off);

    /// <inheritdoc cref="Resizer.Resize"/>
    public void Resize(long length, Preallocation preallocation) => _parts.Resizer.Resize(length, preallocation);

    /// <inheritdoc/>
    public long VisitSnapshots(int place, Func<SnapshotRecord, bool> visit) => _parts.Snapshots.Visit(place, visit);

    /// <inheritdoc cref="SnapshotSet.Create"/>
    public SnapshotInfo CreateSnapshot(string name) => _parts.Snapshots.Create(name);

    /// <inheritdoc cref="SnapshotSet.Apply"/>
    public void ApplySnapshot(string nameOrId) => _parts.Snapshots.Apply(nameOrId);

    /// <inheritdoc cref="SnapshotSet.Delete"/>
    public void DeleteSnapshot(string nameOrId) => _parts.Snapshots.Delete(nameOrId);

    /// <inheritdoc cref="SnapshotSet.Open"/>
    public BlockDevice OpenSnapshot(string nameOrId) => _parts.Snapshots.Open(nameOrId);

    /// <inheritdoc cref="ImageBitmaps.Add(string, long, bool)"/>
    public void AddBitmap(string name, long granularity, bool enabled) =>
        _parts.Bitmaps.Add(name, granularity, enabled);

    /// <inheritdoc cref="ImageBitmaps.Remove"/>
    public void RemoveBitmap(string name) => _parts.Bitmaps.Remove(name);

    /// <inheritdoc cref="ImageBitmaps.Clear"/>
    public void ClearBitmap(string name) => _parts.Bitmaps.Clear(name);

    /// <inheritdoc cref="ImageBitmaps.Enable"/>
    public void EnableBitmap(string name) => _parts.Bitmaps.Enable(name);

    /// <inheritdoc cref="ImageBitmaps.Disable"/>
    public void DisableBitmap(string name) => _parts.Bitmaps.Disable(name);

    /// <inheritdoc cref="ImageBitmaps.Merge(string, string)"/>
    public void MergeBitmap(string source, string target) => _parts.Bitmaps.Merge(source, target);

    /// <inheritdoc/>
    public void MergeBitmap(IBitmaps sourceImage, string source, string target) =>
        _parts.Bitmaps.Merge((sourceImage as Qcow2Device)?._parts.Bitmaps, source, target);

    /// <inheritdoc/>
    public BlockDevice? ChangeBacking(BlockDevice? backing) => _parts.BackingChange.Run(backing);

    /// <inheritdoc/>
    public T WhileStill<T>(Func<BlockDevice, T> look) => _parts.Still.Run(look);

    /// <inheritdoc cref="UnreferencedLook.Open"/>
    public BlockDevice OpenUnreferenced() => _parts.Unreferenced.Open();

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        try
        {
            _parts.Close();
        }
        finally
        {
            base.Dispose(disposing);
        }
    }

    /// <summary>Checks that the range can be written, and prepares the image for its first write.</summary>
    private void BeginWrite(long offset, long length)
    {
        CheckWritable();
        CheckRange(offset, length);
        _firstWrite.Begin();
    }

    private void Clear(long offset, long length, bool isDiscard, bool mayUnmap)
    {
        _parts.BitmapLife.Record(offset, length);
        try
        {
            if (_target is not null && isDiscard)
                _target.Discard(offset, length);
            else if (_target is not null)
                _target.WriteZeroes(offset, length, mayUnmap);
            else if (isDiscard)
                _parts.Zeroes.Discard(offset, length);
            else
                _parts.Zeroes.Zero(offset, length, mayUnmap);
            _parts.Freed.FlushMany();
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            _image.Corrupt.Set();
            throw;
        }
    }
}
