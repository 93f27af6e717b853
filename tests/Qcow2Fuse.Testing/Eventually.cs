// SPDX-License-Identifier: MIT
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>
/// Waits for what is bound to happen. The bound is for a program that hangs and says nothing about speed: a machine under
/// load, or with an emulated processor, must not reach it.
/// </summary>
public static class Eventually
{
    /// <summary>How long anything is waited for before a test calls it a hang: two minutes.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    /// <summary>Waits until a condition holds; fails with <paramref name="complaint"/> where it never does.</summary>
    public static void Holds(Func<bool> condition, string? complaint = null) =>
        Assert.True(SpinWait.SpinUntil(condition, Patience), complaint ?? $"did not happen within {Patience}");

    /// <summary>Waits until a thread waits for a lock, an event or a pulse.</summary>
    public static void IsAsleep(Thread thread) =>
        Holds(() => thread.ThreadState.HasFlag(ThreadState.WaitSleepJoin), "the thread does not come to wait");

    /// <summary>Waits until a thread has ended.</summary>
    public static void Ends(Thread thread) => Assert.True(thread.Join(Patience), "the thread does not end");

    /// <summary>Waits until a task has ended, and throws what it threw.</summary>
    public static void Ends(Task task) => Assert.True(task.Wait(Patience), "the task does not end");
}
