// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Qcow2.Tests.Crash;

/// <summary>Variables of the environment that scale and move the crash tests.</summary>
internal static class CrashSettings
{
    private const ulong DefaultRuns = 2_000;
    private const ulong DefaultStates = 400_000;

    /// <summary>How many runs there are in all.</summary>
    public static int Runs => (int)Number("QCOW2FUSE_CRASH_RUNS", DefaultRuns);

    /// <summary>How many states there are in all.</summary>
    public static long States => (long)Number("QCOW2FUSE_CRASH_STATES", DefaultStates);

    /// <summary>The first seed.</summary>
    public static ulong Seed => Number("QCOW2FUSE_CRASH_SEED", 20_000);

    /// <summary>A number, decimal or with 0x, or what it is otherwise.</summary>
    public static ulong Number(string name, ulong otherwise)
    {
        string? value = Environment.GetEnvironmentVariable(name);
        if (string.IsNullOrEmpty(value))
            return otherwise;
        return value.StartsWith("0x", StringComparison.OrdinalIgnoreCase)
            ? ulong.Parse(value.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture)
            : ulong.Parse(value, CultureInfo.InvariantCulture);
    }
}
