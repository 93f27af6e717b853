// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux;

/// <summary>Calls on descriptors that need not be seekable: pipes, terminals, sockets.</summary>
public static unsafe partial class LinuxStream
{
    /// <summary>write(2) until all is written: 0, or −errno.</summary>
    public static int Write(int fd, ReadOnlySpan<byte> source)
    {
        fixed (byte* start = source)
        {
            int done = 0;
            while (done < source.Length)
            {
                nint result = WriteNative(fd, start + done, (nuint)(source.Length - done));
                int errno = Marshal.GetLastPInvokeError();
                if (result >= 0)
                    done += (int)result;
                else if (errno != Errno.EINTR)
                    return -errno;
            }

            return 0;
        }
    }

    [LibraryImport("libc", EntryPoint = "write", SetLastError = true)]
    private static partial nint WriteNative(int fd, byte* buffer, nuint length);
}
