// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>What /proc tells of the processes that serve.</summary>
public static class ProcessFigures
{
    // Fields of /proc/PID/stat behind the name, which may hold anything: utime and stime are 14 and 15 of all.
    private const int UserField = 11;
    private const int SystemField = 12;
    private const double MicrosecondsPerTick = 10_000;

    /// <summary>Processor time in microseconds, in ticks of 10 ms.</summary>
    public static double CpuMicroseconds(IEnumerable<int> processes) => processes.Sum(static process =>
    {
        string text = File.ReadAllText($"/proc/{process}/stat");
        string[] fields = text[(text.LastIndexOf(')') + 2)..].Split(' ');
        return MicrosecondsPerTick * (long.Parse(fields[UserField], CultureInfo.InvariantCulture)
            + long.Parse(fields[SystemField], CultureInfo.InvariantCulture));
    });

    /// <summary>The most memory they had resident, each at its own time.</summary>
    public static long PeakBytes(IEnumerable<int> processes) =>
        processes.Sum(static process => Status(process, "VmHWM:"));

    /// <summary>The memory they have resident.</summary>
    public static long ResidentBytes(IEnumerable<int> processes) =>
        processes.Sum(static process => Status(process, "VmRSS:"));

    private static long Status(int process, string field)
    {
        string line = File.ReadLines($"/proc/{process}/status")
            .First(line => line.StartsWith(field, StringComparison.Ordinal));
        string kibibytes = line[field.Length..].Replace("kB", string.Empty, StringComparison.Ordinal).Trim();
        return 1024 * long.Parse(kibibytes, CultureInfo.InvariantCulture);
    }
}
