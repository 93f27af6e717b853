// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>
/// Waits for what is bound to happen. The bound is for a program that hangs and says nothing about speed: a machine
/// under load, or with an emulated processor, must not reach it.
/// </summary>
public static class Eventually
{
    /// <summary>How long anything is waited for before a test calls it a hang: two minutes.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    /// <summary>Looks in a row at which all threads must sleep: one that spins is runnable at most of them.</summary>
    private const int Looks = 50;

    private static readonly TimeSpan Brief = TimeSpan.FromMilliseconds(1);
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(4);

    /// <summary>Waits until a condition holds; fails with <paramref name="complaint"/> where it never does.</summary>
    public static void Holds(Func<bool> condition, string? complaint = null) =>
        Assert.True(Comes(condition), $"{complaint ?? "it does not happen"} ({Patience.TotalSeconds} s)");

    /// <summary>Waits until a condition holds; false where it never does.</summary>
    public static bool Comes(Func<bool> condition)
    {
        // At first without a pause; then with one, which leaves the processors to those that are waited for.
        if (SpinWait.SpinUntil(condition, Brief))
            return true;
        for (Stopwatch waited = Stopwatch.StartNew(); waited.Elapsed < Patience; Thread.Sleep(Pause))
        {
            if (condition())
                return true;
        }

        return condition();
    }

    /// <summary>Waits until a thread has ended.</summary>
    public static void Ends(Thread thread) => Assert.True(thread.Join(Patience), "the thread does not end");

    /// <summary>
    /// Waits until all threads of a process sleep, at many looks in a row. A thread that spins or polls is runnable
    /// also where the machine is too busy to run it, so nothing is measured and no load can hide it.
    /// </summary>
    public static void Sleeps(int process) =>
        Holds(() => IsAsleep(process), $"process {process} does not come to rest");

    /// <summary>Whether all threads of a process sleep, at many looks in a row.</summary>
    public static bool IsAsleep(int process)
    {
        string tasks = string.Create(CultureInfo.InvariantCulture, $"/proc/{process}/task");
        for (int look = 0; look < Looks; look++)
        {
            foreach (string task in Directory.EnumerateDirectories(tasks))
            {
                if (!IsTaskAsleep(task))
                    return false;
            }
        }

        return true;
    }

    private static bool IsTaskAsleep(string task)
    {
        try
        {
            // The state stands behind the name in parentheses: S and D sleep, I is an idle thread of the kernel.
            string stat = File.ReadAllText(Path.Combine(task, "stat"));
            return stat[stat.LastIndexOf(')') + 2] is 'S' or 'D' or 'I';
        }
        catch (IOException)
        {
            // It has ended since it was listed; the next look has the others.
            return false;
        }
    }
}
