// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Restart;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>
/// Changes through a raw file, in order with what is changed through the other files of its disk and with what the
/// kernel holds of this one.
/// </summary>
/// <remarks>
/// The kernel writes whole pages: a byte that a program stored into mapped memory brings 4095 others with it, as they
/// were when the page was read. Where several files of a disk are open for writing, changes come one at a time; of what
/// comes out of the kernel's cache only sectors are written that differ from the disk, and none that was changed
/// through another file since. Two programs that change one sector through two files at once are left to themselves.
/// </remarks>
/// <param name="context">What all nodes share.</param>
/// <param name="image">The image whose disk is changed.</param>
/// <param name="pages">What the kernel holds of the file.</param>
internal sealed class FileChanges(TreeContext context, HostedImage image, FilePages pages)
{
    private const int SectorSize = 512;

    /// <summary>Bytes that are zeroed before somebody is asked whether to go on.</summary>
    private const long ZeroStep = 1L << 36;

    private static readonly TimeSpan InterruptibleFrom = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan RoomPatience = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan SharePatience = TimeSpan.FromSeconds(60);

    /// <summary>
    /// Says that the file is open for writing once more, in order with changes through the other files of the disk.
    /// </summary>
    /// <returns>0, or a negated error number: it is not open then.</returns>
    public int TryBegin()
    {
        bool isFirst = pages.BeginWriting();
        int error = -Errno.EIO;
        try
        {
            return error = AwaitOrder(isFirst);
        }
        finally
        {
            if (error != 0)
                pages.EndWriting();
        }
    }

    /// <summary>
    /// Waits until what was begun while changes needed no order has ended, and until the kernel holds no page of this
    /// file that is older than a change through another one.
    /// </summary>
    private int AwaitOrder(bool isFirst)
    {
        FuseCall? call = FuseCall.Current;
        if (!image.Writes.WaitForUnordered(SharePatience, () => call is { IsInterrupted: true }))
            return call is { IsInterrupted: true } ? -Errno.EINTR : -Errno.EIO;

        // What programs have stored through the other files is to be seen through this one.
        if (isFirst && image.Writes.IsShared)
            image.AskForPages();
        return pages.WaitDelivered(SharePatience) ? 0 : -Errno.EIO;
    }

    /// <summary>Writes from a place of the disk on.</summary>
    public void Write(BlockDevice device, long start, ReadOnlySpan<byte> source, FuseWriteKind kind)
    {
        if (image.Writes.TryBeginUnordered())
        {
            try
            {
                try
                {
                    device.Write(start, source);
                }
                finally
                {
                    // What fails may have changed something.
                    image.NoteChange(pages, start, source.Length);
                }
            }
            finally
            {
                image.Writes.EndUnordered();
            }

            return;
        }

        // A page may be what a notification waits for, and so must not wait for it.
        bool isPage = (kind & FuseWriteKind.FromCache) == FuseWriteKind.FromCache;
        if (!isPage)
            AwaitRoom();
        using Lock.Scope scope = image.Writes.Enter();
        if (isPage)
        {
            WritePages(device, start, source);
            return;
        }

        // Once nothing is remembered, a single file needs no order.
        image.Writes.Newer.Forget(pages.Delivered);
        WriteNow(device, start, source);
    }

    /// <summary>Zeroes a range of the file; a signal ends it where it takes long.</summary>
    /// <param name="device">The disk.</param>
    /// <param name="windowStart">Where the file begins on it.</param>
    /// <param name="offset">Where in the file the range begins.</param>
    /// <param name="length">Bytes of the range.</param>
    /// <param name="mayUnmap">Whether its storage may be given up.</param>
    /// <returns>0, or −EINTR: part of the range may be zeroed.</returns>
    public int ZeroRange(BlockDevice device, long windowStart, long offset, long length, bool mayUnmap)
    {
        long started = Stopwatch.GetTimestamp();
        long done = 0;
        long begun = 0;
        try
        {
            while (done < length)
            {
                // A signal that does not kill interrupts too, and must not spoil what is soon done.
                bool isInterrupted = FuseCall.Current is { IsInterrupted: true };
                if (isInterrupted && Stopwatch.GetElapsedTime(started) >= InterruptibleFrom)
                    return -Errno.EINTR;
                long at = windowStart + offset + done;
                long step = Math.Min(length - done, ZeroStep - (at & (ZeroStep - 1)));
                begun = done + step;
                Zero(device, at, step, mayUnmap);
                done = begun;
            }
        }
        finally
        {
            // The kernel drops its pages of a range that is zeroed, and keeps them all where that fails half-way. What
            // a program has stored there since is still to be written.
            if (done < length && begun > 0)
                pages.Drop(offset, begun);
        }

        return 0;
    }

    /// <summary>Gives the disk another size, in bytes.</summary>
    public void Resize(BlockDevice device, long size)
    {
        using Lock.Scope scope = image.Writes.Enter();
        long old = device.Length;
        try
        {
            device.Resize(size);
        }
        finally
        {
            // The kernel changes what it has of this file itself.
            image.NoteResize(Math.Min(old, device.Length), through: pages);
        }
    }

    /// <summary>Zeroes a range of the disk in one step.</summary>
    public void Zero(BlockDevice device, long start, long length, bool mayUnmap)
    {
        if (image.Writes.TryBeginUnordered())
        {
            try
            {
                ZeroNow(device, start, length, mayUnmap);
            }
            finally
            {
                image.Writes.EndUnordered();
            }

            return;
        }

        AwaitRoom();
        using Lock.Scope scope = image.Writes.Enter();
        ZeroNow(device, start, length, mayUnmap);
    }

    private void ZeroNow(BlockDevice device, long start, long length, bool mayUnmap)
    {
        try
        {
            device.WriteZeroes(start, length, mayUnmap);
        }
        finally
        {
            image.NoteChange(pages, start, length);
        }
    }

    private void WriteNow(BlockDevice device, long start, ReadOnlySpan<byte> source)
    {
        try
        {
            device.Write(start, source);
        }
        finally
        {
            // What fails may have changed something.
            image.NoteChange(pages, start, source.Length);
        }
    }

    /// <summary>Writes what was changed in pages of the kernel's cache.</summary>
    private void WritePages(BlockDevice device, long start, ReadOnlySpan<byte> source)
    {
        using PooledBuffer buffer = BufferPool.Shared.Rent(source.Length);
        Span<byte> known = buffer.Span[..source.Length];
        device.Read(start, known);
        NewerRanges newer = image.Writes.Newer;
        long delivered = pages.Delivered;
        long end = start + source.Length;
        for (long at = start; at < end;)
        {
            (long from, long to) = newer.Outside(at, end, pages.Number, delivered);
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
                WriteNow(device, start + from, source[from..at]);
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
        if (!image.Writes.Newer.HasRoom)
            context.Invalidator?.TryWaitDelivered(RoomPatience);
    }
}
