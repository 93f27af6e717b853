// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Hosting.Restart;

/// <summary>
/// Counts changes of a disk in memory that outlives the process, so that the next one knows whether any may be lost.
/// </summary>
/// <remarks>
/// A change is counted before it begins. A flush covers what had ended before it began, so it may only say that all is
/// durable if no change was under way then; else the next flush may. Nothing here allocates or waits.
/// </remarks>
/// <param name="child">The disk.</param>
/// <param name="state">Where the counts are kept.</param>
internal sealed class UnflushedFilter(BlockDevice child, RestartState state) : FilterDevice(child)
{
    private int _underWay;

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        Begin();
        try
        {
            Child.Write(offset, source);
        }
        finally
        {
            End();
        }
    }

    /// <inheritdoc/>
    public override void WriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
    {
        Begin();
        try
        {
            Child.WriteParts(offset, head, body, tail);
        }
        finally
        {
            End();
        }
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        Begin();
        try
        {
            Child.WriteZeroes(offset, length, mayUnmap);
        }
        finally
        {
            End();
        }
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        Begin();
        try
        {
            Child.Discard(offset, length);
        }
        finally
        {
            End();
        }
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        Begin();
        try
        {
            Child.Resize(length);
        }
        finally
        {
            End();
        }
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        // In this order: a change that is in the count was under way before it was counted.
        long begun = Interlocked.Read(ref state.Begun);
        bool isCovered = Interlocked.CompareExchange(ref _underWay, 0, 0) == 0;
        try
        {
            Child.Flush();
        }
        catch
        {
            // Something may be lost, and the next process must know it although its own flushes will succeed.
            Interlocked.Increment(ref state.Begun);
            throw;
        }

        if (isCovered)
            Raise(begun);
    }

    private void Begin()
    {
        Interlocked.Increment(ref _underWay);
        Interlocked.Increment(ref state.Begun);
    }

    private void End() => Interlocked.Decrement(ref _underWay);

    private void Raise(long durable)
    {
        long seen = Interlocked.Read(ref state.Durable);
        while (durable > seen)
        {
            long previous = Interlocked.CompareExchange(ref state.Durable, durable, seen);
            if (previous == seen)
                return;
            seen = previous;
        }
    }
}
