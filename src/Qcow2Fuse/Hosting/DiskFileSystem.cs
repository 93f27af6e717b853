// SPDX-License-Identifier: MIT
using System.Text;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block;
using Qcow2Fuse.Fuse;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// A directory with one raw file, the disk of a <see cref="ServedImage"/>; or, on a mount point that is a file, that
/// file alone. Like a block device the file cannot change its size, and is not emptied when opened for writing.
/// </summary>
internal sealed class DiskFileSystem : IFuseFileSystem
{
    private const ulong RootNode = 1;
    private const ulong FileNodeInDirectory = 2;
    private const uint StatisticsBlockSize = 4096;
    private const uint PermissionMask = 0xFFF;
    private const int MessagePeriodMilliseconds = 1000;

    private readonly BlockDevice _device;
    private readonly byte[] _fileName;
    private readonly string _displayName;
    private readonly bool _rootIsFile;
    private readonly bool _unmapsHoles;
    private readonly bool _mayResize;
    private readonly ILogger _logger;
    private readonly FileOwnership _ownership;
    private readonly FuseTime _created;
    private long _modifiedTicks;
    private uint _fileMode;
    private int _resizeWasRefused;
    private long _lastMessage = -MessagePeriodMilliseconds;

    /// <summary>Shows <paramref name="image"/>, which stays the caller's.</summary>
    /// <param name="image">The open image.</param>
    /// <param name="rootIsFile">The mount point is a file, so the root is one.</param>
    /// <param name="unmapsHoles">Punching a hole gives its space back.</param>
    /// <param name="mayResize">The size of the file can be changed, and with it the disk's.</param>
    /// <param name="ownership">Who owns the files, with what modes.</param>
    /// <param name="modified">When the image was last changed, in UTC.</param>
    /// <param name="logger">Where refusals and failures are told.</param>
    public DiskFileSystem(
        ServedImage image,
        bool rootIsFile,
        bool unmapsHoles,
        bool mayResize,
        FileOwnership ownership,
        DateTime modified,
        ILogger logger)
    {
        _device = image.Device;
        _displayName = image.FileName;
        _fileName = Encoding.UTF8.GetBytes(image.FileName);
        _rootIsFile = rootIsFile;
        _unmapsHoles = unmapsHoles;
        _mayResize = mayResize;
        _ownership = ownership;
        _fileMode = ownership.FileMode(_device.IsReadOnly);
        _logger = logger;
        _modifiedTicks = modified.Ticks;
        _created = FuseTime.FromUtc(modified);
    }

    private ulong FileNode => _rootIsFile ? RootNode : FileNodeInDirectory;

    /// <inheritdoc/>
    public int Lookup(ulong parent, ReadOnlySpan<byte> name, out FuseAttributes attributes)
    {
        attributes = default;
        if (_rootIsFile || parent != RootNode || !name.SequenceEqual(_fileName))
            return -FuseErrno.ENOENT;
        attributes = FileAttributes();
        return 0;
    }

    /// <inheritdoc/>
    public int GetAttributes(ulong node, out FuseAttributes attributes)
    {
        attributes = default;
        if (node == FileNode)
            attributes = FileAttributes();
        else if (node == RootNode)
            attributes = DirectoryAttributes();
        else
            return -FuseErrno.ENOENT;
        return 0;
    }

    /// <inheritdoc/>
    public int SetAttributes(ulong node, in FuseAttributeChange change, out FuseAttributes attributes)
    {
        attributes = default;
        if (node != FileNode)
            return -FuseErrno.EPERM;
        if ((change.Uid is { } uid && uid != _ownership.UserId)
            || (change.Gid is { } gid && gid != _ownership.GroupId))
        {
            return -FuseErrno.EPERM;
        }

        // Under the kernel's writeback cache an O_TRUNC arrives as a change to size 0; a disk ignores it.
        bool isOpening = change.MayBeOpenTruncation && change.Size == 0;
        if (change.Size is { } size && size != _device.Length && !isOpening
            && TryResize(size) is not 0 and var error)
            return error;

        if (change.Mode is { } mode)
            Volatile.Write(ref _fileMode, mode & PermissionMask);
        if (change.Modified is { } time)
            Volatile.Write(ref _modifiedTicks, TicksOf(time));
        attributes = FileAttributes();
        return 0;
    }

    /// <inheritdoc/>
    public int Open(ulong node, FuseOpenRequest request, out FuseOpenResult result)
    {
        result = FuseOpenResult.ForDisk(request, handle: 0);
        if (node != FileNode)
            return node == RootNode ? -FuseErrno.EISDIR : -FuseErrno.ENOENT;
        return request.Writes && _device.IsReadOnly ? -FuseErrno.EROFS : 0;
    }

    /// <inheritdoc/>
    public int Read(ulong node, ulong handle, long offset, Span<byte> destination)
    {
        long left = _device.Length - offset;
        if (left <= 0)
            return 0;
        int length = (int)Math.Min(left, destination.Length);
        _device.Read(offset, destination[..length]);
        return length;
    }

    /// <inheritdoc/>
    public int Write(ulong node, ulong handle, long offset, ReadOnlySpan<byte> source)
    {
        if (_device.IsReadOnly)
            return -FuseErrno.EROFS;
        long left = _device.Length - offset;

        // At its end a disk is full.
        if (left <= 0)
            return source.IsEmpty ? 0 : -FuseErrno.ENOSPC;
        int length = (int)Math.Min(left, source.Length);
        _device.Write(offset, source[..length]);
        Touch();
        return length;
    }

    /// <inheritdoc/>
    public int Fsync(ulong node, ulong handle, bool dataOnly)
    {
        if (!_device.IsReadOnly)
            _device.Flush();
        return 0;
    }

    /// <inheritdoc/>
    public int Allocate(ulong node, ulong handle, FuseAllocateMode mode, long offset, long length)
    {
        if (_device.IsReadOnly)
            return -FuseErrno.EROFS;
        long size = _device.Length;
        bool isInside = length <= size - offset;
        switch (mode)
        {
            // Space is taken when it is written; what counts for the caller is that the range can be.
            case FuseAllocateMode.Allocate when !isInside && _mayResize && offset <= long.MaxValue - length:
                return TryResize(offset + length);
            case FuseAllocateMode.Allocate or FuseAllocateMode.KeepSize:
                return isInside ? 0 : -FuseErrno.EFBIG;
            case FuseAllocateMode.ZeroRange when !isInside:
                return -FuseErrno.EFBIG;
            case FuseAllocateMode.PunchHole | FuseAllocateMode.KeepSize:
                return Zero(offset, Math.Min(length, size - offset), _unmapsHoles);
            case FuseAllocateMode.ZeroRange or (FuseAllocateMode.ZeroRange | FuseAllocateMode.KeepSize):
                return Zero(offset, Math.Min(length, size - offset), mayUnmap: false);
            default:
                return -FuseErrno.EOPNOTSUPP;
        }
    }

    /// <inheritdoc/>
    public long Seek(ulong node, ulong handle, long offset, FuseSeekKind kind)
    {
        long size = _device.Length;
        if (offset >= size)
            return -FuseErrno.ENXIO;
        while (offset < size)
        {
            DataRun run = DataRun.At(_device, offset, size - offset);
            if (run.IsData == (kind == FuseSeekKind.Data))
                return offset;
            offset += run.Length;
        }

        // The end of a file counts as a hole.
        return kind == FuseSeekKind.Hole ? size : -FuseErrno.ENXIO;
    }

    /// <inheritdoc/>
    public int GetStatistics(ulong node, out FuseStatistics statistics)
    {
        long size = _device.Length;
        ulong free = (ulong)Math.Max(size - _device.AllocatedBytes, 0) / StatisticsBlockSize;
        statistics = new FuseStatistics
        {
            BlockSize = StatisticsBlockSize,
            Blocks = ((ulong)size + StatisticsBlockSize - 1) / StatisticsBlockSize,
            FreeBlocks = free,
            AvailableBlocks = free,
            Nodes = FileNode,
        };
        return 0;
    }

    /// <inheritdoc/>
    public int OpenDirectory(ulong node, out ulong handle)
    {
        handle = 0;
        return node == RootNode && !_rootIsFile ? 0 : -FuseErrno.ENOTDIR;
    }

    /// <inheritdoc/>
    public int ReadDirectory(ulong node, ulong handle, long offset, ref FuseDirectoryWriter entries)
    {
        if (offset <= 0 && !entries.Add(RootNode, FuseAttributes.Directory, "."u8, nextOffset: 1))
            return 0;
        if (offset <= 1 && !entries.Add(RootNode, FuseAttributes.Directory, ".."u8, nextOffset: 2))
            return 0;
        if (offset <= 2)
            _ = entries.Add(FileNode, FuseAttributes.RegularFile, _fileName, nextOffset: 3);
        return 0;
    }

    /// <summary>The error number for a failure, which is also logged, at most once a second.</summary>
    public int OnFailure(Exception exception)
    {
        long now = Environment.TickCount64;
        long last = Interlocked.Read(ref _lastMessage);
        if (now - last >= MessagePeriodMilliseconds
            && Interlocked.CompareExchange(ref _lastMessage, now, last) == last)
        {
            HostLog.RequestFailed(_logger, exception.Message);
        }

        return exception is BlockException failure ? BlockErrnos.Of(failure.Kind) : FuseErrno.EIO;
    }

    private int Zero(long offset, long length, bool mayUnmap)
    {
        if (length <= 0)
            return 0;
        _device.WriteZeroes(offset, length, mayUnmap);
        Touch();
        return 0;
    }

    /// <summary>Resizes the disk where the user allows it; else says in the log, once, how to.</summary>
    private int TryResize(long size)
    {
        if (!_mayResize)
        {
            if (Interlocked.Exchange(ref _resizeWasRefused, 1) == 0)
                HostLog.ResizeRefused(_logger, _displayName);
            return -FuseErrno.EPERM;
        }

        if (_device.IsReadOnly)
            return -FuseErrno.EROFS;
        _device.Resize(size);
        Touch();
        return 0;
    }

    private void Touch() => Volatile.Write(ref _modifiedTicks, DateTime.UtcNow.Ticks);

    private FuseAttributes FileAttributes()
    {
        FuseTime modified = FuseTime.FromUtc(new DateTime(Volatile.Read(ref _modifiedTicks), DateTimeKind.Utc));
        return Attributes(FileNode, FuseAttributes.RegularFile | Volatile.Read(ref _fileMode), links: 1) with
        {
            Size = _device.Length,
            AllocatedBytes = _device.AllocatedBytes,
            Accessed = modified,
            Modified = modified,
            Changed = modified,
        };
    }

    private FuseAttributes DirectoryAttributes() =>
        Attributes(RootNode, FuseAttributes.Directory | _ownership.DirectoryMode, links: 2) with
        {
            Accessed = _created,
            Modified = _created,
            Changed = _created,
        };

    private FuseAttributes Attributes(ulong node, uint mode, uint links) => new()
    {
        Node = node,
        Mode = mode,
        Links = links,
        Uid = _ownership.UserId,
        Gid = _ownership.GroupId,
        BlockSize = StatisticsBlockSize,
    };

    private static long TicksOf(FuseTime time)
    {
        long latest = (DateTime.MaxValue - DateTime.UnixEpoch).Ticks / TimeSpan.TicksPerSecond;
        long seconds = Math.Clamp(time.Seconds, 0, latest - 1);
        return DateTime.UnixEpoch.Ticks + (seconds * TimeSpan.TicksPerSecond) + (time.Nanoseconds / 100);
    }
}
