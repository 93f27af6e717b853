// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Uring;

/// <summary>The machine's processors, by their numbers, whether or not this process may use them.</summary>
public static unsafe partial class Processors
{
    private const int MaskBits = 8192;

    /// <summary>
    /// Processors there may ever be, also those that can be plugged in later: as many queues has the kernel.
    /// </summary>
    /// <exception cref="IOException">sysfs cannot be read.</exception>
    public static IReadOnlyList<int> Possible() => Parse(File.ReadAllText("/sys/devices/system/cpu/possible"));

    /// <summary>Processors that run.</summary>
    /// <exception cref="IOException">sysfs cannot be read.</exception>
    public static IReadOnlyList<int> Online() => Parse(File.ReadAllText("/sys/devices/system/cpu/online"));

    /// <summary>The numbers in a list of ranges such as "0-3,8".</summary>
    /// <exception cref="FormatException">It is not such a list.</exception>
    public static IReadOnlyList<int> Parse(string list)
    {
        List<int> numbers = [];
        foreach (string range in list.Trim().Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            string[] ends = range.Split('-', 2);
            int first = int.Parse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture);
            int last = int.Parse(ends[^1], NumberStyles.None, CultureInfo.InvariantCulture);
            if (last >= MaskBits)
                throw new FormatException($"processor {last}");
            for (int number = first; number <= last; number++)
                numbers.Add(number);
        }

        return numbers;
    }

    /// <summary>
    /// The processors the calling thread may run on, a bit each (sched_getaffinity(2)); all where it cannot be told.
    /// </summary>
    public static ulong[] Allowed()
    {
        ulong[] mask = new ulong[MaskBits / 64];
        fixed (ulong* start = mask)
        {
            if (GetAffinityNative(0, MaskBits / 8, start) < 0)
                mask.AsSpan().Fill(ulong.MaxValue);
        }

        return mask;
    }

    /// <summary>
    /// Keeps the calling thread on one processor (sched_setaffinity(2)). −EINVAL where it does not run or is
    /// forbidden to this process.
    /// </summary>
    public static int TryPin(int processor)
    {
        if (processor is < 0 or >= MaskBits)
            return -Errno.EINVAL;
        Span<ulong> mask = stackalloc ulong[MaskBits / 64];
        mask.Clear();
        mask[processor / 64] = 1UL << (processor % 64);
        return TryRunOn(mask);
    }

    /// <summary>Lets the calling thread run on some processors, a bit each, as <see cref="Allowed"/> gives them.
    /// </summary>
    public static int TryRunOn(ReadOnlySpan<ulong> mask)
    {
        fixed (ulong* start = mask)
        {
            int result = SetAffinityNative(0, (nuint)mask.Length * sizeof(ulong), start);
            int errno = Marshal.GetLastPInvokeError();
            return result >= 0 ? 0 : -errno;
        }
    }

    [LibraryImport("libc", EntryPoint = "sched_getaffinity", SetLastError = true)]
    private static partial int GetAffinityNative(int thread, nuint size, ulong* mask);

    [LibraryImport("libc", EntryPoint = "sched_setaffinity", SetLastError = true)]
    private static partial int SetAffinityNative(int thread, nuint size, ulong* mask);
}
