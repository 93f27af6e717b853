// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>
/// A disk, or a window of it, as a file. Like a block device it cannot change its size (unless the user lets it), and
/// is not emptied when opened for writing.
/// </summary>
internal sealed partial class RawFileNode : TreeNode
{
    private const uint PermissionMask = 0xFFF;

    private readonly TreeContext _context;
    private uint? _mode;
    private int _seenOpening;
    private bool _isRetired;
    private volatile bool _isResumed;

    /// <summary>Shows a window of an image's own disk.</summary>
    /// <param name="context">What all nodes share.</param>
    /// <param name="image">The image.</param>
    /// <param name="window">What is shown of it.</param>
    /// <param name="isPartition">Whether the same bytes are shown by the file of the whole disk.</param>
    public RawFileNode(TreeContext context, HostedImage image, DiskWindow window, bool isPartition)
    {
        _context = context;
        Source = image;
        Image = image;
        Window = window;
        IsView = isPartition;
        Pages = new FilePages(context, this);
    }

    /// <summary>Shows a disk inside an image that is only read, such as one of its layers.</summary>
    public RawFileNode(TreeContext context, HostedImage image, DiskSource source)
    {
        _context = context;
        Source = source;
        Image = image;
        Window = DiskWindow.Whole;
        IsView = true;
        Pages = new FilePages(context, this);
    }

    /// <summary>The image it belongs to.</summary>
    public HostedImage Image { get; }

    /// <summary>What is open while the file is.</summary>
    public DiskSource Source { get; }

    /// <summary>What it shows of the disk.</summary>
    public DiskWindow Window { get; }

    /// <summary>Whether another file shows the same bytes: the kernel holds pages of this one while it is open only.
    /// </summary>
    public bool IsView { get; }

    /// <summary>What the kernel may hold of it.</summary>
    public FilePages Pages { get; }

    /// <summary>What is changed through it. It remembers nothing, and most files are never changed.</summary>
    public FileChanges Changes => field ??= new FileChanges(_context, Image, Pages);

    /// <summary>Whether the storage of what is zeroed here may be given up.</summary>
    public bool MayUnmap => _context.Settings.Image.Discard != DiscardMode.Ignore;

    /// <summary>Held by who opens, closes or retires the file. A lock of its own would cost memory for every image.
    /// </summary>
    private object OpenLock => Pages;

    /// <inheritdoc/>
    public override uint Kind => FuseAttributes.RegularFile;

    /// <inheritdoc/>
    /// <remarks>A disk that is closed is opened: its image says how long that takes.</remarks>
    public override bool MayTakeLong => Source.Current is null;

    /// <inheritdoc/>
    /// <remarks>Where the disk has several files, one that is opened waits for changes through the others.</remarks>
    public override bool MayOpenLong => MayTakeLong || Image.HasSeveralFiles;

    /// <summary>Size of the file in bytes.</summary>
    public long Length => Window.LengthOn(Source.Length);

    /// <summary>Bytes of storage in use.</summary>
    public long AllocatedBytes
    {
        get
        {
            long all = Source.AllocatedBytes;
            BlockDevice? device = Window == DiskWindow.Whole ? null : Source.AcquireOpen();
            if (device is null)
                return Math.Min(all, Window == DiskWindow.Whole ? all : Length);
            try
            {
                return Math.Min(all, DataRun.EstimateBytes(device, Window.Start, Length));
            }
            finally
            {
                Source.Release();
            }
        }
    }

    /// <summary>Its size and what it occupies as far as is known without asking.</summary>
    public (long Length, long AllocatedBytes) LastKnown
    {
        get
        {
            (long all, long allocated) = Image.LastKnown;
            long length = Window.LengthOn(all);
            return (length, Window == DiskWindow.Whole ? allocated : Math.Min(allocated, length));
        }
    }

    /// <summary>The open disk. Files are read and written while they are open, and so is the disk then.</summary>
    public BlockDevice Device =>
        Source.Current ?? throw new BlockException(BlockErrorKind.Io, $"{Image.Path}: is not open");

    private bool IsWholeDisk => Window == DiskWindow.Whole && !IsView;

    /// <inheritdoc/>
    public override int Read(ulong handle, long offset, Span<byte> destination)
    {
        long started = Stopwatch.GetTimestamp();
        BlockDevice device = Device;
        long left = Length - offset;
        if (left <= 0)
            return 0;
        int length = (int)Math.Min(left, destination.Length);
        device.Read(Window.Start + offset, destination[..length]);
        NoteTransfer(isWrite: false, Window.Start + offset, length, started);
        return length;
    }

    /// <inheritdoc/>
    public override int Write(ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind)
    {
        long started = Stopwatch.GetTimestamp();
        BlockDevice device = Device;
        if (device.IsReadOnly)
            return -Errno.EROFS;
        long left = Length - offset;

        // At its end a disk is full.
        if (left <= 0)
            return source.IsEmpty ? 0 : -Errno.ENOSPC;
        int length = (int)Math.Min(left, source.Length);
        Changes.Write(device, Window.Start + offset, source[..length], kind);
        Image.Counters.CountWrite(length, started);
        if ((kind & FuseWriteKind.Synchronous) == FuseWriteKind.Synchronous && _context.MayBeDirect(handle))
            Fsync();
        return length;
    }

    /// <inheritdoc/>
    public override bool TryBeginTransfer(long offset, FuseTransfer transfer)
    {
        // What reaches beyond the end is cut, or refused, the usual way.
        bool isInside = offset <= Length - transfer.Length;
        return isInside && Source.Current is { } device
            && !(transfer.IsWrite && device.IsReadOnly)
            && PlainTransfer.TryBegin(transfer, this, device, Window.Start + offset);
    }

    /// <summary>The order of changes to its disk.</summary>
    public SharedWrites Writes => Image.Writes;

    /// <summary>Counts a transfer that is done, and tells who has to know.</summary>
    public void NoteTransfer(bool isWrite, long start, int length, long started)
    {
        if (!isWrite)
        {
            Image.Counters.CountRead(length, started);
            return;
        }

        Image.Counters.CountWrite(length, started);
        Image.NoteChange(Pages, start, length);
    }

    /// <inheritdoc/>
    public override int Fsync()
    {
        long started = Stopwatch.GetTimestamp();
        BlockDevice device = Device;
        if (!device.IsReadOnly)
            device.Flush();
        Image.Counters.CountFlush(started);
        _context.AwaitInvalidations();
        return 0;
    }

    /// <inheritdoc/>
    public override int Allocate(FuseAllocateMode mode, long offset, long length)
    {
        if (Device.IsReadOnly)
            return -Errno.EROFS;
        long size = Length;
        bool isInside = length <= size - offset;
        switch (mode)
        {
            // Space is taken when it is written; what counts for the caller is that the range can be.
            case FuseAllocateMode.Allocate when !isInside && MayResize && offset <= long.MaxValue - length:
                return TryResize(offset + length);
            case FuseAllocateMode.Allocate or FuseAllocateMode.KeepSize:
                return isInside ? 0 : -Errno.EFBIG;
            case FuseAllocateMode.ZeroRange when !isInside:
                return -Errno.EFBIG;
            case FuseAllocateMode.PunchHole | FuseAllocateMode.KeepSize:
                return Zero(offset, Math.Min(length, size - offset), MayUnmap);
            case FuseAllocateMode.ZeroRange or (FuseAllocateMode.ZeroRange | FuseAllocateMode.KeepSize):
                return Zero(offset, Math.Min(length, size - offset), mayUnmap: false);
            default:
                return -Errno.EOPNOTSUPP;
        }
    }

    /// <inheritdoc/>
    public override long Seek(long offset, FuseSeekKind kind)
    {
        BlockDevice device = Device;
        long size = Length;
        if (offset >= size)
            return -Errno.ENXIO;
        using Walk walk = _context.Walks.Begin();
        if (Image.AskForPages(Window.Start + offset) && !_context.HasDelivered(walk.Patience))
            return kind == FuseSeekKind.Data ? offset : size;
        while (offset < size)
        {
            // No file system has to tell all holes: what is left may count as data.
            if (walk.IsOver)
                return kind == FuseSeekKind.Data ? offset : size;
            DataRun run = DataRun.FarAt(device, Window.Start + offset, size - offset);
            if (run.IsData == (kind == FuseSeekKind.Data))
                return offset;
            offset += run.Length;
        }

        // The end of a file counts as a hole.
        return kind == FuseSeekKind.Hole ? size : -Errno.ENXIO;
    }

    private int Zero(long offset, long length, bool mayUnmap)
    {
        if (length <= 0)
            return 0;
        long started = Stopwatch.GetTimestamp();
        int error = Changes.ZeroRange(Device, Window.Start, offset, length, mayUnmap);
        if (error == 0)
            Image.Counters.CountZeroes(length, started);
        return error;
    }
}
