// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>The threads of a server: how they are started, and when the last of them has ended.</summary>
/// <param name="ended">Called once, by the last thread, when none is left.</param>
internal sealed class ServerThreads(Action ended)
{
    private const int StackSize = 256 * 1024;

    private int _running;

    /// <summary>A thread, not started, that serves requests.</summary>
    public static Thread New(ThreadStart work) => new(work, StackSize) { IsBackground = true, Name = "fuse" };

    /// <summary>Counts the caller as one of them until it calls <see cref="CountDown"/>.</summary>
    public void CountUp() => Interlocked.Increment(ref _running);

    /// <summary>One of them has ended.</summary>
    public void CountDown()
    {
        if (Interlocked.Decrement(ref _running) == 0)
            ended();
    }

    /// <summary>As <see cref="TryStart"/>.</summary>
    /// <exception cref="InsufficientMemoryException">There is no room for one.</exception>
    public void Start(ThreadStart work)
    {
        if (!TryStart(work))
            throw new InsufficientMemoryException("no thread can be started");
    }

    /// <summary>Starts a thread that counts as running and ends with <see cref="CountDown"/>.</summary>
    /// <returns>False where there is no room for one.</returns>
    /// <exception cref="OutOfMemoryException">There is no memory to ask for one. Nothing was counted.</exception>
    public bool TryStart(ThreadStart work)
    {
        Thread thread = New(work);
        bool isStarted = false;
        CountUp();
        try
        {
            isStarted = ManagedRoom.TryStart(thread);
        }
        finally
        {
            if (!isStarted)
                CountDown();
        }

        return isStarted;
    }
}
