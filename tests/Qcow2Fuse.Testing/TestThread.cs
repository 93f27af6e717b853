// SPDX-License-Identifier: MIT
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>A thread that a test starts in order to see it wait for something, and then end.</summary>
public sealed class TestThread
{
    private readonly Thread _thread;
    private Exception? _failure;

    private TestThread(Action action)
    {
        _thread = new Thread(() => _failure = Record.Exception(action)) { IsBackground = true };
        _thread.Start();
    }

    /// <summary>Starts a thread.</summary>
    public static TestThread Start(Action action) => new(action);

    /// <summary>
    /// Waits until the thread sleeps: in a lock, for an event or for a pulse. Fails where it ends instead.
    /// </summary>
    public void ShouldWait(string complaint)
    {
        Eventually.Holds(
            () => !_thread.IsAlive || _thread.ThreadState.HasFlag(ThreadState.WaitSleepJoin),
            "it does not come to wait");
        Assert.True(_thread.IsAlive, complaint);
    }

    /// <summary>Fails where the thread has ended.</summary>
    public void ShouldNotHaveEnded(string complaint) => Assert.True(_thread.IsAlive, complaint);

    /// <summary>Waits until the thread has ended; fails with what it threw.</summary>
    public void ShouldEnd()
    {
        Eventually.Ends(_thread);
        Assert.Null(_failure);
    }

    /// <summary>Waits until the thread has ended, and returns what it threw.</summary>
    public T ShouldThrow<T>()
        where T : Exception
    {
        Eventually.Ends(_thread);
        return Assert.IsType<T>(_failure);
    }
}
