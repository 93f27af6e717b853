// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Processes;

/// <summary>Waiting for a child process.</summary>
internal static unsafe partial class ChildCalls
{
    private const int WaitForId = 1;
    private const int Exited = 4;
    private const int LeaveWaitable = 0x01000000;
    private const int SignalInfoBytes = 128;

    /// <summary>
    /// waitpid(2): what a process ended with, 128 and the number of the signal where one ended it, or −errno.
    /// </summary>
    public static int Wait(int process)
    {
        while (true)
        {
            int status = 0;
            int result = WaitpidNative(process, &status, 0);
            int errno = Marshal.GetLastPInvokeError();
            if (result >= 0)
                return (status & 0x7F) == 0 ? status >> 8 & 0xFF : 128 + (status & 0x7F);
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    /// <summary>
    /// Waits until a child has ended, without taking notice of it, so that its process id stays its own. Before Linux
    /// 5.3 there is no waiting for so long and no longer, and the wait is to the end.
    /// </summary>
    public static bool WaitUntilOver(int process, TimeSpan patience)
    {
        int descriptor = patience == Timeout.InfiniteTimeSpan ? -1 : WatchedProcess.OpenDescriptor(process);
        if (descriptor >= 0)
        {
            bool isOver = WatchedProcess.WaitUntilOver(descriptor, patience);
            _ = LinuxFile.Close(descriptor);
            return isOver;
        }

        byte* info = stackalloc byte[SignalInfoBytes];
        while (WaitidNative(WaitForId, process, info, Exited | LeaveWaitable) != 0
            && Marshal.GetLastPInvokeError() == Errno.EINTR)
        {
        }

        return true;
    }

    [LibraryImport("libc", EntryPoint = "waitpid", SetLastError = true)]
    private static partial int WaitpidNative(int process, int* status, int options);

    [LibraryImport("libc", EntryPoint = "waitid", SetLastError = true)]
    private static partial int WaitidNative(int kind, int process, byte* info, int options);
}
