// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Fuse;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// Keeps what the kernel holds of this file in order with what is changed through the other files of its disk.
/// </summary>
/// <remarks>
/// The kernel writes whole pages: a byte that a program stored into mapped memory brings 4095 others with it, as they
/// were when the page was read. Where several files of a disk are open for writing, changes come one at a time; of what
/// comes out of the kernel's cache only sectors are written that differ from the disk, and none that was changed
/// through another file since. Two programs that change one sector through two files at once are left to themselves.
/// </remarks>
internal sealed partial class RawFileNode
{
    private const int SectorSize = 512;

    private static readonly TimeSpan RoomPatience = TimeSpan.FromSeconds(5);

    private NewerRanges? _newer;
    private int _writing;
    private volatile bool _isRecalled;

    /// <summary>Whether programs may have changed pages that the kernel has not written yet.</summary>
    public bool MayHaveChangedPages => Volatile.Read(ref _writing) > 0;

    /// <summary>Whether one more change through another file can be remembered.</summary>
    public bool HasRoomForChange => Volatile.Read(ref _newer) is not { HasRoom: false };

    private bool MustKeepOrder => _image.IsShared || Volatile.Read(ref _newer) is { Any: true };

    /// <summary>
    /// The kernel knows this file from an earlier process: it may hold pages of it, and there may be users.
    /// </summary>
    /// <param name="writes">Whether it may be open for writing.</param>
    public void Recall(bool writes)
    {
        lock (_openLock)
            _cached ??= new FuseCachedNode(Number);
        _isRecalled = true;
        if (writes)
            BeginWriting();
    }

    /// <summary>
    /// Asks the kernel to write what programs have changed in its pages, and to drop them, from an offset of the disk
    /// on. <see cref="FuseInvalidator.WaitDelivered"/> waits for it.
    /// </summary>
    public void AskForPages(long from)
    {
        if (Volatile.Read(ref _cached) is { } cached)
            _context.Invalidator?.Invalidate(cached, Math.Max(from - _window.Start, 0), long.MaxValue);
    }

    /// <summary>
    /// Drops what the kernel may have cached of a range of the disk, which was changed through another file.
    /// </summary>
    public void Forget(long start, long length)
    {
        FuseCachedNode? cached = Volatile.Read(ref _cached);

        // Pages of a view live while it is open only: without FOPEN_KEEP_CACHE every open drops them.
        if (cached is null || (_isView && Volatile.Read(ref _opens) == 0 && !_isRecalled))
            return;
        long end = length > long.MaxValue - start ? long.MaxValue : start + length;
        long from = Math.Max(start, _window.Start);
        long to = _window.Length is { } size ? Math.Min(end, _window.Start + size) : end;
        if (from >= to || _context.Invalidator is not { } invalidator)
            return;
        if (!MayHaveChangedPages)
        {
            invalidator.Invalidate(cached, from - _window.Start, to - from);
            return;
        }

        using Lock.Scope scope = _image.Writes.Enter();
        NewerRanges newer = _newer ??= new NewerRanges();
        newer.Forget(invalidator.Delivered);
        long ticket = invalidator.Invalidate(cached, from - _window.Start, to - from);
        if (newer.HasRoom)
            newer.Add(from, to, ticket);
    }

    private void BeginWriting()
    {
        if (Interlocked.Increment(ref _writing) != 1)
            return;
        _image.Writes.AddFile();
        _context.WrittenNodes?.Add(Number);

        // What is on its way out of the kernel now was not begun in order.
        if (_image.IsShared)
            _image.AskForPages();
    }

    private void EndWriting()
    {
        if (Interlocked.Decrement(ref _writing) != 0)
            return;
        _image.Writes.RemoveFile();
        _context.WrittenNodes?.Remove(Number);
    }

    private void WriteInOrder(BlockDevice device, long start, ReadOnlySpan<byte> source, FuseWriteKind kind)
    {
        if (!MustKeepOrder)
        {
            Write(device, start, source);
            return;
        }

        RequireRoom();
        using Lock.Scope scope = _image.Writes.Enter();
        if ((kind & FuseWriteKind.FromCache) == FuseWriteKind.FromCache)
            WritePages(device, start, source);
        else
            Write(device, start, source);
    }

    private void ZeroInOrder(BlockDevice device, long start, long length, bool mayUnmap)
    {
        bool keepsOrder = MustKeepOrder;
        if (keepsOrder)
            RequireRoom();
        using Lock.Scope scope = keepsOrder ? _image.Writes.Enter() : default;
        try
        {
            device.WriteZeroes(start, length, mayUnmap);
        }
        finally
        {
            _image.HasChanged(this, start, length);
        }
    }

    private void Write(BlockDevice device, long start, ReadOnlySpan<byte> source)
    {
        try
        {
            device.Write(start, source);
        }
        finally
        {
            // What fails may have changed something.
            _image.HasChanged(this, start, source.Length);
        }
    }

    /// <summary>Writes what was changed in pages of the kernel's cache.</summary>
    private void WritePages(BlockDevice device, long start, ReadOnlySpan<byte> source)
    {
        using PooledBuffer buffer = BufferPool.Shared.Rent(source.Length);
        Span<byte> known = buffer.Span[..source.Length];
        device.Read(start, known);
        if (_context.Invalidator is { } invalidator)
            _newer?.Forget(invalidator.Delivered);
        long end = start + source.Length;
        for (long at = start; at < end;)
        {
            (long from, long to) = _newer?.Outside(at, end) ?? (at, end);
            int skipped = (int)(from - start);
            WriteChanged(device, from, source[skipped..(int)(to - start)], known[skipped..]);
            at = to;
        }
    }

    private void WriteChanged(BlockDevice device, long start, ReadOnlySpan<byte> source, ReadOnlySpan<byte> known)
    {
        for (int at = 0; at < source.Length;)
        {
            int from = at + SameSectors(source[at..], known[at..], areSame: true);
            at = from + SameSectors(source[from..], known[from..], areSame: false);
            if (at > from)
                Write(device, start + from, source[from..at]);
        }
    }

    /// <summary>Bytes of the first sectors that are all the same in both, or all different.</summary>
    private static int SameSectors(ReadOnlySpan<byte> source, ReadOnlySpan<byte> known, bool areSame)
    {
        int at = 0;
        while (at < source.Length)
        {
            int length = Math.Min(SectorSize, source.Length - at);
            if (source.Slice(at, length).SequenceEqual(known.Slice(at, length)) != areSame)
                break;
            at += length;
        }

        return at;
    }

    /// <summary>Waits until the kernel has taken enough notifications for one more change to be remembered.</summary>
    /// <exception cref="BlockException">It takes none.</exception>
    private void RequireRoom()
    {
        if (_image.HasRoomForChanges || _context.Invalidator is not { } invalidator)
            return;
        if (!invalidator.WaitDelivered(RoomPatience))
        {
            throw new BlockException(
                BlockErrorKind.Io, $"{_image.Path}: the kernel does not drop old pages of another file of the disk");
        }
    }
}
