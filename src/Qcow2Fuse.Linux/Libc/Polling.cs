// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>poll(2) of one descriptor.</summary>
internal static unsafe partial class Polling
{
    /// <summary>POLLIN.</summary>
    public const short Readable = 1;

    /// <summary>POLLERR, which is told whether it is asked for or not.</summary>
    public const short Error = 8;

    /// <summary>Waits until something happens to a descriptor. Results are 0 where nothing did by then, 1, or −errno.
    /// </summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <param name="events">What is asked for.</param>
    /// <param name="milliseconds">How long to wait; −1 for ever.</param>
    /// <param name="happened">What happened.</param>
    public static int Wait(int descriptor, short events, int milliseconds, out short happened)
    {
        Request request = new() { Descriptor = descriptor, Events = events };
        int result = PollNative(&request, 1, milliseconds);
        int errno = Marshal.GetLastPInvokeError();
        happened = request.Happened;
        return result >= 0 ? result : -errno;
    }

    [LibraryImport("libc", EntryPoint = "poll", SetLastError = true)]
    private static partial int PollNative(Request* requests, nuint count, int milliseconds);

    /// <summary>struct pollfd.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Request
    {
        public int Descriptor;
        public short Events;
        public short Happened;
    }
}
