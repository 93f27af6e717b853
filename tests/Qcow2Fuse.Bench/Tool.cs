// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Bench;

/// <summary>Other programs, run to their end.</summary>
public static class Tool
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(10);

    /// <summary>Runs a program that has to succeed, and returns what it printed.</summary>
    /// <exception cref="InvalidOperationException">It is not installed, or it failed.</exception>
    public static string Run(string program, params IReadOnlyList<string> arguments)
    {
        ProcessResult result = ProcessRunner.Run(program, arguments, timeout: Patience);
        if (result.ExitCode != 0)
        {
            throw new InvalidOperationException(
                $"{program} {string.Join(' ', arguments)} ends with {result.ExitCode}: {result.Error.Trim()}");
        }

        return result.Output;
    }

    /// <summary>Waits for something to become true.</summary>
    /// <exception cref="InvalidOperationException">It did not within a minute.</exception>
    public static void WaitFor(Func<bool> condition, string otherwise)
    {
        for (int i = 0; i < 6000; i++)
        {
            if (condition())
                return;
            Thread.Sleep(10);
        }

        throw new InvalidOperationException(otherwise);
    }

    /// <summary>Whether something is mounted on a path.</summary>
    public static bool IsMounted(string path) =>
        File.ReadLines("/proc/self/mountinfo")
            .Any(line => string.Equals(line.Split(' ')[4], path, StringComparison.Ordinal));

    /// <summary>Forgets what the kernel has cached, where it may be told to.</summary>
    public static void DropCaches()
    {
        Run("sync");
        if (Environment.IsPrivilegedProcess)
            File.WriteAllText("/proc/sys/vm/drop_caches", "3");
    }
}
