// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>Where the figures come from.</summary>
public static class Machine
{
    /// <summary>Processors, memory, kernel and the programs' versions, one line.</summary>
    public static string Describe()
    {
        string model = File.ReadLines("/proc/cpuinfo")
            .FirstOrDefault(static line => line.StartsWith("model name", StringComparison.Ordinal))?
            .Split(':')[1].Trim()
            ?? "unknown processor";
        double gibibytes = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / (double)(1L << 30);
        string qemu = Tool.Run("qemu-storage-daemon", "--version").Split('\n')[0];
        string kernel = Tool.Run("uname", "-r").Trim();
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{Environment.ProcessorCount} x {model}, {gibibytes:F0} GiB, Linux {kernel}; {qemu}; ")
            + Tool.Run("fio", "--version").Trim();
    }
}
