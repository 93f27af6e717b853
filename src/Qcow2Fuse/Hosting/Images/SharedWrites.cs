// SPDX-License-Identifier: MIT
using Qcow2Fuse.Hosting.Restart;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// The order of changes to one disk that several of its files are open for writing of. One at a time: what the kernel
/// writes out of an old page must not come between a change through another file and its being known.
/// </summary>
/// <remarks>
/// While one file alone is open for writing, its changes come in any order and are only counted. Whoever opens the next
/// one waits for those that were begun so.
/// </remarks>
/// <param name="newer">What was changed through one file while the kernel may hold older pages of another.</param>
internal sealed class SharedWrites(NewerRanges newer) : IDisposable
{
    private static readonly TimeSpan InterruptPeriod = TimeSpan.FromMilliseconds(100);

    private readonly Lock _order = new();
    private readonly object _ended = new();
    private int _writtenFiles;
    private int _unordered;
    private int _waiting;

    /// <summary>What the kernel may hold older pages of.</summary>
    public NewerRanges Newer { get; } = newer;

    /// <summary>Whether a file of the disk may be written.</summary>
    public bool HasWriters => Volatile.Read(ref _writtenFiles) > 0;

    /// <summary>Whether more than one file of the disk may be written.</summary>
    public bool IsShared => Volatile.Read(ref _writtenFiles) > 1;

    private bool KeepsOrder => IsShared || Newer.Any;

    /// <summary>A file of the disk is open for writing.</summary>
    public void AddFile() => Interlocked.Increment(ref _writtenFiles);

    /// <summary>It is not any more.</summary>
    public void RemoveFile() => Interlocked.Decrement(ref _writtenFiles);

    /// <summary>Begins a change in order; it ends when the scope is disposed.</summary>
    public Lock.Scope Enter() => _order.EnterScope();

    /// <summary>
    /// Begins a change that needs no order, which <see cref="EndUnordered"/> ends; false where it needs one.
    /// </summary>
    public bool TryBeginUnordered()
    {
        if (KeepsOrder)
            return false;

        // Counted before the second look: whoever opens another file waits for it, or is seen here.
        Interlocked.Increment(ref _unordered);
        if (!KeepsOrder)
            return true;
        EndUnordered();
        return false;
    }

    /// <summary>Ends what <see cref="TryBeginUnordered"/> began, once others know of it. Waits for nothing.</summary>
    public void EndUnordered()
    {
        if (Interlocked.Decrement(ref _unordered) > 0 || Volatile.Read(ref _waiting) == 0)
            return;
        lock (_ended)
            Monitor.PulseAll(_ended);
    }

    /// <summary>
    /// Where changes come in order now, waits for those that were begun without one, at most <paramref name="timeout"/>
    /// or until <paramref name="isInterrupted"/>.
    /// </summary>
    /// <returns>Whether they have ended, or no order is needed.</returns>
    public bool WaitForUnordered(TimeSpan timeout, Func<bool> isInterrupted)
    {
        Interlocked.Increment(ref _waiting);
        try
        {
            long end = Environment.TickCount64 + (long)timeout.TotalMilliseconds;
            lock (_ended)
            {
                while (IsShared && Volatile.Read(ref _unordered) > 0)
                {
                    if (Environment.TickCount64 >= end || isInterrupted())
                        return false;
                    Monitor.Wait(_ended, InterruptPeriod);
                }
            }

            return true;
        }
        finally
        {
            Interlocked.Decrement(ref _waiting);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Newer.Dispose();
}
