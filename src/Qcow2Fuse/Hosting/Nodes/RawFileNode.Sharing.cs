// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Hosting.Restart;

namespace Qcow2Fuse.Hosting.Nodes;

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
    private static readonly TimeSpan SharePatience = TimeSpan.FromSeconds(60);

    private int _writing;
    private long _asked;
    private volatile bool _isRecalled;

    /// <inheritdoc/>
    public bool MayHaveChangedPages => Volatile.Read(ref _writing) > 0;

    /// <inheritdoc/>
    public long Delivered => _context.Invalidator?.Delivered ?? 0;

    /// <inheritdoc/>
    /// <remarks>Where the disk has several files, one that is opened waits for changes through the others.</remarks>
    public override bool MayOpenLong => MayTakeLong || _image.HasSeveralFiles;

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

    /// <inheritdoc/>
    /// <remarks><see cref="FuseInvalidator.WaitDelivered(TimeSpan)"/> waits for it.</remarks>
    public void AskForPages(long from)
    {
        if (Volatile.Read(ref _cached) is { } cached)
            Ask(cached, Math.Max(from - _window.Start, 0), long.MaxValue);
    }

    /// <inheritdoc/>
    public long Forget(long start, long length)
    {
        FuseCachedNode? cached = Volatile.Read(ref _cached);

        // Pages of a view live while it is open only: without FOPEN_KEEP_CACHE every open drops them.
        if (cached is null || (_isView && Volatile.Read(ref _opens) == 0 && !_isRecalled))
            return 0;
        long end = length > long.MaxValue - start ? long.MaxValue : start + length;
        long from = Math.Max(start, _window.Start);
        long to = _window.Length is { } size ? Math.Min(end, _window.Start + size) : end;
        return from < to ? Ask(cached, from - _window.Start, to - from) : 0;
    }

    /// <inheritdoc/>
    public long ForgetEnd(long start)
    {
        lock (_openLock)
            _cached ??= new FuseCachedNode(Number);
        return Ask(_cached, Math.Max(start - _window.Start, 0), long.MaxValue);
    }

    /// <summary>Asks the kernel to drop a range of its pages of the file.</summary>
    private long Ask(FuseCachedNode cached, long offset, long length)
    {
        if (_context.Invalidator is not { } invalidator)
            return 0;
        long ticket = invalidator.Invalidate(cached, offset, length);
        for (long seen = Volatile.Read(ref _asked); seen < ticket;)
            seen = Interlocked.CompareExchange(ref _asked, ticket, seen);
        return ticket;
    }

    /// <summary>Says that the file is open for writing once more; whether it was not before.</summary>
    private bool BeginWriting()
    {
        _image.Writes.Newer.Prepare();
        if (Interlocked.Increment(ref _writing) != 1)
            return false;
        _image.Writes.AddFile();
        _context.WrittenNodes?.Add(Number);
        return true;
    }

    /// <summary>As <see cref="BeginWriting"/>, in order with changes through the other files of the disk.</summary>
    /// <returns>0, or a negated error number: it is not open then.</returns>
    private int TryBeginWriting()
    {
        bool isFirst = BeginWriting();
        int error = -FuseErrno.EIO;
        try
        {
            return error = AwaitOrder(isFirst);
        }
        finally
        {
            if (error != 0)
                EndWriting();
        }
    }

    /// <summary>
    /// Waits until what was begun while changes needed no order has ended, and until the kernel holds no page of this
    /// file that is older than a change through another one.
    /// </summary>
    private int AwaitOrder(bool isFirst)
    {
        FuseCall? call = FuseCall.Current;
        if (!_image.Writes.WaitForUnordered(SharePatience, () => call is { IsInterrupted: true }))
            return call is { IsInterrupted: true } ? -FuseErrno.EINTR : -FuseErrno.EIO;

        // What programs have stored through the other files is to be seen through this one.
        if (isFirst && _image.Writes.IsShared)
            _image.AskForPages();
        return _context.Invalidator?.WaitDelivered(Volatile.Read(ref _asked), SharePatience) == false
            ? -FuseErrno.EIO : 0;
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
        if (_image.Writes.TryBeginUnordered())
        {
            try
            {
                Write(device, start, source);
            }
            finally
            {
                _image.Writes.EndUnordered();
            }

            return;
        }

        // A page may be what a notification waits for, and so must not wait for it.
        bool isPage = (kind & FuseWriteKind.FromCache) == FuseWriteKind.FromCache;
        if (!isPage)
            AwaitRoom();
        using Lock.Scope scope = _image.Writes.Enter();
        if (isPage)
        {
            WritePages(device, start, source);
            return;
        }

        // Once nothing is remembered, a single file needs no order.
        _image.Writes.Newer.Forget(Delivered);
        Write(device, start, source);
    }

    private void ZeroInOrder(BlockDevice device, long start, long length, bool mayUnmap)
    {
        if (_image.Writes.TryBeginUnordered())
        {
            try
            {
                WriteZeroes(device, start, length, mayUnmap);
            }
            finally
            {
                _image.Writes.EndUnordered();
            }

            return;
        }

        AwaitRoom();
        using Lock.Scope scope = _image.Writes.Enter();
        WriteZeroes(device, start, length, mayUnmap);
    }

    private void WriteZeroes(BlockDevice device, long start, long length, bool mayUnmap)
    {
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
        NewerRanges newer = _image.Writes.Newer;
        long delivered = Delivered;
        long end = start + source.Length;
        for (long at = start; at < end;)
        {
            (long from, long to) = newer.Outside(at, end, Number, delivered);
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

    /// <summary>
    /// Waits a while for the kernel to do what it was asked for where much is to be remembered: what has no place for
    /// itself is remembered with what lies around it.
    /// </summary>
    private void AwaitRoom()
    {
        if (!_image.Writes.Newer.HasRoom)
            _context.Invalidator?.TryWaitDelivered(RoomPatience);
    }
}
