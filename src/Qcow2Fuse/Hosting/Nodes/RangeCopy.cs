// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>Copies from one raw file of the mount to another, or within one.</summary>
internal static class RangeCopy
{
    private const int PieceMax = 1 << 20;
    private const long DataMax = 16 << 20;
    private const long LengthMax = 1 << 30;

    /// <summary>
    /// Copies a range. What is stored nowhere in the source is not stored in the target either, but zeroed where
    /// something else was. At most 16 MiB of data at a time, so that the caller can be interrupted between requests;
    /// what fails behind the first piece is told to who asks for the rest.
    /// </summary>
    /// <param name="source">The file that is read.</param>
    /// <param name="target">The file that is written; may be the same.</param>
    /// <param name="from">Where the range begins in the source, in bytes.</param>
    /// <param name="to">Where it begins in the target, in bytes.</param>
    /// <param name="length">Its length in bytes.</param>
    /// <returns>Bytes copied, or a negated error number: −EINVAL for ranges of one disk that overlap.</returns>
    /// <exception cref="BlockException">Nothing could be copied.</exception>
    public static long Run(RawFileNode source, RawFileNode target, long from, long to, long length)
    {
        BlockDevice reading = source.Device;
        BlockDevice writing = target.Device;
        if (writing.IsReadOnly)
            return -Errno.EROFS;
        length = Math.Min(Math.Min(length, LengthMax), source.Length - from);
        if (length <= 0)
            return 0;
        length = Math.Min(length, target.Length - to);
        if (length <= 0)
            return -Errno.ENOSPC;
        from += source.Window.Start;
        to += target.Window.Start;
        if (ReferenceEquals(source.Source, target.Source) && Math.Abs(from - to) < length)
            return -Errno.EINVAL;

        long copied = 0;
        try
        {
            using PooledBuffer buffer = BufferPool.Shared.Rent((int)Math.Min(length, PieceMax));
            for (long data = 0; copied < length && data < DataMax;)
            {
                DataRun run = DataRun.At(reading, from + copied, length - copied);
                long piece = run.IsData ? Math.Min(run.Length, PieceMax) : run.Length;
                if (run.IsData)
                {
                    Span<byte> bytes = buffer.Span[..(int)piece];
                    Read(source.Image, reading, from + copied, bytes);
                    Write(target, writing, to + copied, bytes);
                    data += piece;
                }
                else
                {
                    Clear(target, writing, to + copied, piece);
                }

                copied += piece;
            }
        }
        catch (BlockException) when (copied > 0)
        {
            // As write(2) does: what was copied counts, and the next call begins with what failed. The kernel drops its
            // pages of what was copied; behind that something may have changed too.
            _ = target.Pages.Forget(to, length);
        }
        catch (BlockException)
        {
            _ = target.Pages.Forget(to, length);
            throw;
        }

        return copied;
    }

    private static void Read(HostedImage image, BlockDevice device, long offset, Span<byte> destination)
    {
        long started = Stopwatch.GetTimestamp();
        device.Read(offset, destination);
        image.Counters.CountRead(destination.Length, started);
    }

    private static void Write(RawFileNode target, BlockDevice device, long offset, ReadOnlySpan<byte> source)
    {
        long started = Stopwatch.GetTimestamp();
        target.Changes.Write(device, offset, source, FuseWriteKind.Plain);
        target.Image.Counters.CountWrite(source.Length, started);
    }

    /// <summary>Zeroes what is stored of a range; what is stored nowhere is zero already.</summary>
    private static void Clear(RawFileNode target, BlockDevice device, long offset, long length)
    {
        for (long end = offset + length; offset < end;)
        {
            DataRun run = DataRun.At(device, offset, end - offset);
            if (run.IsData)
            {
                long started = Stopwatch.GetTimestamp();
                target.Changes.Zero(device, offset, run.Length, target.MayUnmap);
                target.Image.Counters.CountZeroes(run.Length, started);
            }

            offset += run.Length;
        }
    }
}
