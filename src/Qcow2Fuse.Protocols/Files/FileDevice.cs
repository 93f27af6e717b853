// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Ranges;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// A regular file or a block device of the host. A regular file grows when written past its end. With O_DIRECT any
/// request is taken too, but those that are not multiples of <see cref="BlockLimits.RequestAlignment"/> cost a
/// read-modify-write.
/// </summary>
/// <remarks>
/// After a failed flush every later one fails, because what was lost is not known. With O_DIRECT a regular file may
/// be padded with zeroes up to one alignment past <see cref="Length"/> until the device is disposed, but not after
/// <see cref="KeepLength"/> by writes inside of it.
/// </remarks>
public sealed partial class FileDevice : BlockDevice, INewFile
{
    private readonly FileOpener _opener;
    private readonly int _fd;
    private readonly bool _isBlockDevice;
    private readonly DirectFile? _direct;
    private readonly SharedFlush _flush;
    private long _length;
    private bool _isClosed;
    private bool _isLocked;
    private bool _isClaimed;
    private bool _cannotPunch;
    private bool _cannotZero;

    internal FileDevice(
        FileOpener opener, int fd, string path, in FileStatus status, bool readOnly, DirectFile? direct, long length)
    {
        _opener = opener;
        _fd = fd;
        _isBlockDevice = status.Type == FileType.BlockDevice;
        _direct = direct;
        _flush = new SharedFlush(() => LinuxFile.DataSync(fd));
        _length = length;
        Path = path;
        Name = Printable.Text(path);
        IsReadOnly = readOnly;
        HostIdentity = FileIdentity.Of(status);
        Limits = new BlockLimits(direct?.Alignment ?? 1, GrowsOnWrite: !_isBlockDevice);
    }

    /// <summary>What opened it.</summary>
    internal FileOpener Opener => _opener;

    /// <summary>Its descriptor, while it is open.</summary>
    internal int Descriptor => _fd;

    /// <summary>The directory that has its name, while that is needed; closed with the file.</summary>
    internal HeldDirectory? Directory { get; set; }

    /// <summary>Whether it was made by this process.</summary>
    internal bool IsNew { get; set; }

    /// <summary>Who is told when it closes, if anybody.</summary>
    internal FileKeeper? Keeper { get; set; }

    /// <inheritdoc/>
    public override string Name { get; }

    /// <inheritdoc/>
    public override long Length => Volatile.Read(ref _length);

    /// <inheritdoc/>
    public override bool IsReadOnly { get; }

    /// <inheritdoc/>
    public override BlockLimits Limits { get; }

    /// <inheritdoc/>
    public string Path { get; }

    /// <summary>Which file of this host it is.</summary>
    public FileIdentity HostIdentity { get; }

    /// <inheritdoc/>
    public StorageIdentity Identity => HostIdentity.Storage;

    /// <inheritdoc/>
    public BlockDevice Device => this;

    /// <inheritdoc/>
    public override long AllocatedBytes
    {
        get
        {
            if (_isBlockDevice)
                return Length;
            int result = LinuxFile.Status(_fd, out FileStatus status);
            return result < 0 ? throw FileErrors.Failed(-result, Name, "fstat") : status.AllocatedBytes;
        }
    }

    /// <summary>Opens an existing file or block device the user named.</summary>
    /// <param name="path">The file.</param>
    /// <param name="readOnly">Open for reading only.</param>
    /// <param name="direct">Past the page cache of the host (O_DIRECT).</param>
    public static FileDevice Open(string path, bool readOnly = false, bool direct = false) =>
        FileOpener.System.OpenNamed(path, new StorageAccess(readOnly, direct));

    /// <summary>
    /// Makes a new empty file, buffered and writable, locked as an image that is written. An existing file is an
    /// error unless <paramref name="replace"/> is set; then it is emptied once it is locked (a block device keeps its
    /// size and content).
    /// </summary>
    public static FileDevice Create(string path, bool replace = false) => FileOpener.System.Create(path, replace);

    /// <inheritdoc/>
    public void ClaimForWriting()
    {
        WrittenFiles.Add(this);
        _isClaimed = true;
    }

    /// <inheritdoc/>
    public void Lock(ImageLockMode mode)
    {
        _isLocked = true;
        ImageLock.Acquire(_opener.Opener, _fd, Name, HostIdentity, mode, IsReadOnly);
    }

    /// <inheritdoc/>
    public void LeaveDirectory() => TakeDirectory()?.Dispose();

    /// <inheritdoc/>
    /// <remarks>If <see cref="Create"/> made it, its name goes too, unless it has become another file's meanwhile.
    /// </remarks>
    public void Abandon()
    {
        string name = Path[(Path.LastIndexOf('/') + 1)..];
        if (IsNew && Directory is { } directory
            && LinuxFile.Status(directory.Descriptor, name, followsLink: false, out FileStatus status) == 0
            && FileIdentity.Of(status) == HostIdentity)
        {
            // What stays of it where it cannot be removed is in nobody's way but the next attempt's, which says so.
            _ = directory.Unlink(name);
        }

        Dispose();
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        CheckRange(offset, destination.Length);
        int result = _direct is null
            ? LinuxFile.Read(_fd, destination, offset)
            : _direct.Read(offset, destination);
        if (result == destination.Length)
            return;
        BlockRequest request = new(BlockOperation.Read, offset, destination.Length);
        throw result < 0
            ? FileErrors.Failed(-result, Name, request)
            : BlockException.Failed(Name, BlockErrorKind.Io, request, "the file has become shorter");
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        CheckChange(offset, source.Length);
        if (source.IsEmpty)
            return;
        int result = _direct is null
            ? LinuxFile.Write(_fd, source, offset)
            : WriteDirect(offset, source);
        if (result < 0)
            throw FileErrors.Failed(-result, Name, new BlockRequest(BlockOperation.Write, offset, source.Length));
        Grow(offset + source.Length);
    }

    /// <inheritdoc/>
    public override void WriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
    {
        long length = (long)head.Length + body.Length + tail.Length;
        CheckChange(offset, length);
        if (length == 0)
            return;
        int result;
        if (_direct is null)
        {
            result = LinuxFile.Write(_fd, head, body, tail, offset);
        }
        else if (!_direct.TryWriteParts(offset, head, body, tail, out result))
        {
            base.WriteParts(offset, head, body, tail);
            return;
        }

        if (result < 0)
            throw FileErrors.Failed(-result, Name, new BlockRequest(BlockOperation.Write, offset, length));
        Grow(offset + length);
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        CheckChange(offset, length);
        if (length == 0)
            return;
        long end = offset + length;
        if (mayUnmap && TryPunch(offset, length))
        {
            // One byte written moves the end without ever moving it back, as truncating beside other writers could.
            if (end > Length)
                Write(end - 1, [0]);
            return;
        }

        if (!_cannotZero && TryFallocate(FallocateMode.ZeroRange, offset, length, ref _cannotZero))
            Grow(end);
        else
            base.WriteZeroes(offset, length, mayUnmap);
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        CheckWritable();
        CheckRange(offset, length);
        if (length > 0)
            _ = TryPunch(offset, length);
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        int earlier = _flush.Failure;
        if (earlier != 0)
        {
            throw new BlockException(
                BlockErrorKind.Io,
                $"{Name}: an earlier flush failed ({Errno.Text(earlier)}), so what was written may be lost");
        }

        if (IsReadOnly)
            return;
        int errno = _flush.Run();
        if (errno != 0)
            throw FileErrors.Failed(errno, Name, new BlockRequest(BlockOperation.Flush));
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        CheckRange(offset, length);
        Extent data = new(offset, length, ExtentKind.Data, offset, Depth: 0);
        if (_isBlockDevice)
            return data;
        long next = LinuxFile.Seek(_fd, offset, SeekWhence.Data);
        if (next == -Errno.ENXIO)
            return new Extent(offset, length, ExtentKind.Zero, HostOffset: -1, Depth: 0);
        if (next is -Errno.EINVAL or -Errno.EOPNOTSUPP)
            return data;
        if (next < 0)
            throw FileErrors.Failed((int)-next, Name, new BlockRequest(BlockOperation.Search, offset));
        if (next > offset)
            return new Extent(offset, Math.Min(length, next - offset), ExtentKind.Zero, HostOffset: -1, Depth: 0);

        // A hole made since the first search would start here; to call it data is still right.
        long hole = LinuxFile.Seek(_fd, offset, SeekWhence.Hole);
        return hole > offset ? data with { Length = Math.Min(length, hole - offset) } : data;
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        CheckWritable();
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        if (_isBlockDevice)
        {
            base.Resize(length);
            return;
        }

        int result = LinuxFile.Truncate(_fd, length);
        if (result < 0)
            throw FileErrors.Failed(-result, Name, new BlockRequest(BlockOperation.Resize, Length: length));
        Interlocked.Exchange(ref _length, length);
        OpenForTail();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        // Closing twice would close whatever has got the same number since.
        if (disposing && !Interlocked.Exchange(ref _isClosed, true))
        {
            if (_mayBePadded)
                CutPadding();
            if (Keeper is not null)
                Keeper.Closes(this);
            else if (_isLocked)
                ImageLock.Release(_fd);
            _ = LinuxFile.Close(_fd);
            if (_tailFd >= 0)
                _ = LinuxFile.Close(_tailFd);
            if (_isClaimed)
                WrittenFiles.Remove(HostIdentity);
            LeaveDirectory();
        }

        base.Dispose(disposing);
    }

    /// <summary>Its directory, which is the caller's from now on.</summary>
    internal HeldDirectory? TakeDirectory()
    {
        HeldDirectory? directory = Directory;
        Directory = null;
        return directory;
    }

    private bool TryPunch(long offset, long length) =>
        !_cannotPunch
        && TryFallocate(FallocateMode.PunchHole | FallocateMode.KeepSize, offset, length, ref _cannotPunch);

    /// <summary>False if the file system cannot, which is remembered, or not at these offsets of a device.</summary>
    private bool TryFallocate(FallocateMode mode, long offset, long length, ref bool cannot)
    {
        int result;
        if (_direct is null)
        {
            result = LinuxFile.Fallocate(_fd, mode, offset, length);
        }
        else
        {
            using RangeLocks.Holder held = _direct.Change(offset, length);
            result = LinuxFile.Fallocate(_fd, mode, offset, length);
        }

        switch (result)
        {
            case 0:
                return true;
            case -Errno.EOPNOTSUPP or -Errno.ENOSYS:
                cannot = true;
                return false;
            case -Errno.EINVAL when _isBlockDevice:
                return false;
            default:
                throw FileErrors.Failed(-result, Name, new BlockRequest(BlockOperation.Zero, offset, length));
        }
    }

    private void CheckChange(long offset, long length)
    {
        CheckWritable();
        if (_isBlockDevice && offset >= 0 && length >= 0 && offset > Length - length)
            throw new BlockException(
                BlockErrorKind.NoSpace, $"{Name}: no space left, the device has {Length} bytes");
        if (offset < 0 || length < 0 || length > long.MaxValue - Limits.RequestAlignment - offset)
            throw BlockException.OutOfRange(Name, Length, offset, length);
    }

    private void Grow(long end)
    {
        long seen = Length;
        while (end > seen)
        {
            long previous = Interlocked.CompareExchange(ref _length, end, seen);
            if (previous == seen)
                return;
            seen = previous;
        }
    }
}
