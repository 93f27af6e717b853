// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>The processor time of a thread, which does not go on while others run.</summary>
public static unsafe partial class ThreadClock
{
    private const int ThreadProcessorTime = 3;
    private const int NanosecondsPerTick = 100;

    /// <summary>
    /// What the calling thread has taken so far (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID); zero where the system does
    /// not say.
    /// </summary>
    public static TimeSpan Now
    {
        get
        {
            long* time = stackalloc long[2];
            return GetTimeNative(ThreadProcessorTime, time) == 0
                ? new TimeSpan((time[0] * TimeSpan.TicksPerSecond) + (time[1] / NanosecondsPerTick)) : TimeSpan.Zero;
        }
    }

    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int GetTimeNative(int clock, long* time);
}
