// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Hosting.Images;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>Copies from one file of the mount to another.</summary>
internal sealed partial class RawFileNode
{
    private const int CopyPieceMax = 1 << 20;
    private const long CopyDataMax = 16 << 20;
    private const long CopyLengthMax = 1 << 30;

    /// <summary>
    /// Copies a range of another file, or of this one, to this file. What is stored nowhere in the source is not stored
    /// here either, but zeroed where something else was. At most 16 MiB of data at a time, so that the caller can be
    /// interrupted between requests; what fails behind the first piece is told to who asks for the rest.
    /// </summary>
    /// <returns>Bytes copied, or a negated error number: −EINVAL for ranges of one disk that overlap.</returns>
    /// <exception cref="BlockException">Nothing could be copied.</exception>
    public long CopyFrom(RawFileNode source, long from, long to, long length)
    {
        BlockDevice reading = source.Device;
        BlockDevice writing = Device;
        if (writing.IsReadOnly)
            return -FuseErrno.EROFS;
        length = Math.Min(Math.Min(length, CopyLengthMax), source.Length - from);
        if (length <= 0)
            return 0;
        length = Math.Min(length, Length - to);
        if (length <= 0)
            return -FuseErrno.ENOSPC;
        from += source._window.Start;
        to += _window.Start;
        if (ReferenceEquals(source._source, _source) && Math.Abs(from - to) < length)
            return -FuseErrno.EINVAL;

        long copied = 0;
        try
        {
            using PooledBuffer buffer = BufferPool.Shared.Rent((int)Math.Min(length, CopyPieceMax));
            for (long data = 0; copied < length && data < CopyDataMax;)
            {
                DataRun run = DataRun.At(reading, from + copied, length - copied);
                long piece = run.IsData ? Math.Min(run.Length, CopyPieceMax) : run.Length;
                if (run.IsData)
                {
                    Span<byte> bytes = buffer.Span[..(int)piece];
                    ReadForCopy(source._image, reading, from + copied, bytes);
                    WriteCopy(writing, to + copied, bytes);
                    data += piece;
                }
                else
                {
                    Clear(writing, to + copied, piece);
                }

                copied += piece;
            }
        }
        catch (BlockException) when (copied > 0)
        {
            // As write(2) does: what was copied counts, and the next call begins with what failed. The kernel drops its
            // pages of what was copied; behind that something may have changed too.
            Forget(to, length);
        }
        catch (BlockException)
        {
            Forget(to, length);
            throw;
        }

        return copied;
    }

    private static void ReadForCopy(HostedImage image, BlockDevice device, long offset, Span<byte> destination)
    {
        long started = Stopwatch.GetTimestamp();
        device.Read(offset, destination);
        image.Counters.CountRead(destination.Length, started);
    }

    private void WriteCopy(BlockDevice device, long offset, ReadOnlySpan<byte> source)
    {
        long started = Stopwatch.GetTimestamp();
        WriteInOrder(device, offset, source, FuseWriteKind.Plain);
        _image.Counters.CountWrite(source.Length, started);
    }

    /// <summary>Zeroes what is stored of a range; what is stored nowhere is zero already.</summary>
    private void Clear(BlockDevice device, long offset, long length)
    {
        for (long end = offset + length; offset < end;)
        {
            DataRun run = DataRun.At(device, offset, end - offset);
            if (run.IsData)
            {
                long started = Stopwatch.GetTimestamp();
                ZeroInOrder(device, offset, run.Length, _context.Settings.Discard != DiscardMode.Ignore);
                _image.Counters.CountZeroes(run.Length, started);
            }

            offset += run.Length;
        }
    }
}
