// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>What one process asks of another. Results are 0, or negated error numbers.</summary>
public static unsafe partial class ProcessCalls
{
    /// <summary>SIGHUP.</summary>
    public const int Hangup = 1;

    /// <summary>SIGTERM.</summary>
    public const int Terminate = 15;

    private const int FileSizeSignal = 25;
    private const nint Ignored = 1;
    private const int SetParentDeathSignal = 1;
    private const int SetDumpable = 4;
    private const int CoreLimit = 4;

    /// <summary>kill(2).</summary>
    public static int Signal(int process, int signal)
    {
        int result = KillNative(process, signal);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? 0 : -errno;
    }

    /// <summary>
    /// Ignores SIGXFSZ: a write beyond RLIMIT_FSIZE fails with EFBIG. Programs that are started have it as usual.
    /// </summary>
    public static void IgnoreFileSizeLimit() => _ = SignalNative(FileSizeSignal, Ignored);

    /// <summary>
    /// prctl(PR_SET_PDEATHSIG): this process gets SIGTERM when the thread that started it ends, also by SIGKILL.
    /// </summary>
    /// <param name="parent">The process that started this one; −ESRCH if it has ended already.</param>
    public static int EndWithParent(int parent)
    {
        int result = PrctlNative(SetParentDeathSignal, Terminate, 0, 0, 0);
        int errno = Marshal.GetLastPInvokeError();
        if (result < 0)
            return -errno;
        return GetppidNative() == parent ? 0 : -Errno.ESRCH;
    }

    /// <summary>
    /// Keeps the memory of this process, which holds a secret, to itself: no core file of it (RLIMIT_CORE), and no
    /// other process of the same user looks into it (PR_SET_DUMPABLE). Its files in /proc are root's from then on.
    /// </summary>
    public static void HideMemory()
    {
        ulong* limits = stackalloc ulong[2];
        limits[0] = 0;
        limits[1] = 0;
        _ = SetrlimitNative(CoreLimit, limits);
        _ = PrctlNative(SetDumpable, 0, 0, 0, 0);
    }

    /// <summary>
    /// Becomes another user for good, with all threads: setgroups(2), setgid(2), setuid(2). Rights that only root has
    /// are gone afterwards.
    /// </summary>
    public static int BecomeUser(uint user, uint group, uint[] groups)
    {
        int result = SetgroupsNative((nuint)groups.Length, groups);
        if (result == 0)
            result = SetgidNative(group);
        if (result == 0)
            result = SetuidNative(user);
        int errno = Marshal.GetLastPInvokeError();
        return result == 0 ? 0 : -errno;
    }

    [LibraryImport("libc", EntryPoint = "signal")]
    private static partial nint SignalNative(int signal, nint handler);

    [LibraryImport("libc", EntryPoint = "setrlimit", SetLastError = true)]
    private static partial int SetrlimitNative(int resource, ulong* limits);

    [LibraryImport("libc", EntryPoint = "setgroups", SetLastError = true)]
    private static partial int SetgroupsNative(nuint count, uint[] groups);

    [LibraryImport("libc", EntryPoint = "setgid", SetLastError = true)]
    private static partial int SetgidNative(uint group);

    [LibraryImport("libc", EntryPoint = "setuid", SetLastError = true)]
    private static partial int SetuidNative(uint user);

    [LibraryImport("libc", EntryPoint = "kill", SetLastError = true)]
    private static partial int KillNative(int process, int signal);

    [LibraryImport("libc", EntryPoint = "getppid")]
    private static partial int GetppidNative();

    [LibraryImport("libc", EntryPoint = "prctl", SetLastError = true)]
    private static partial int PrctlNative(int option, nuint a, nuint b, nuint c, nuint d);
}
