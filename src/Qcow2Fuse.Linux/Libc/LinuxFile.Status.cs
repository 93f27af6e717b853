// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>What the system tells of a file.</summary>
public static unsafe partial class LinuxFile
{
    private const int EmptyPath = 0x1000;
    private const int NoFollowLink = 0x100;
    private const int DontSync = 0x4000;

    /// <summary>
    /// Opens the file of a descriptor once more, as its own open file: the descriptor, or −errno. No name is looked
    /// up; −ENOENT where there is no /proc.
    /// </summary>
    public static int Reopen(int fd, int flags) =>
        Open(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"/proc/self/fd/{fd}"), flags);

    /// <summary>statx(2) of an open descriptor: 0, or −errno.</summary>
    public static int Status(int fd, out FileStatus status)
    {
        byte empty = 0;
        return Status(fd, &empty, EmptyPath, out status);
    }

    /// <summary>
    /// What the kernel knows of an open descriptor without asking its file system, which may never answer
    /// (AT_STATX_DONT_SYNC): 0, or −errno. Kind, device and inode are right; sizes and times may be old.
    /// </summary>
    public static int KnownStatus(int fd, out FileStatus status)
    {
        byte empty = 0;
        return Status(fd, &empty, EmptyPath | DontSync, out status);
    }

    /// <summary>statx(2) of a name in a directory, not of what a link leads to unless asked: 0, or −errno.</summary>
    public static int Status(int directory, string name, bool followsLink, out FileStatus status)
    {
        byte[] bytes = ByteText.Encode(name + '\0');
        fixed (byte* path = bytes)
            return Status(directory, path, followsLink ? 0 : NoFollowLink, out status);
    }

    private static int Status(int directory, byte* path, int flags, out FileStatus status)
    {
        const uint Wanted = StatxBuffer.BasicStats | StatxBuffer.DirectAlignment;
        StatxBuffer buffer;
        int result = StatxNative(directory, path, flags, Wanted, &buffer);
        int errno = Marshal.GetLastPInvokeError();
        if (result < 0)
        {
            status = default;
            return -errno;
        }

        bool direct = (buffer.Mask & StatxBuffer.DirectAlignment) != 0;
        status = new FileStatus(
            (FileType)(buffer.Mode & 0xF000),
            (long)buffer.Size,
            (long)buffer.Blocks * 512,
            (ulong)buffer.DeviceMajor << 32 | buffer.DeviceMinor,
            buffer.Inode,
            (ulong)buffer.SpecialMajor << 32 | buffer.SpecialMinor,
            direct ? (int)buffer.DirectMemoryAlignment : 0,
            direct ? (int)buffer.DirectOffsetAlignment : 0,
            buffer.Owner,
            (uint)buffer.Mode & 0xFFF,
            buffer.Links,
            Ticks(buffer.ModifiedSeconds, buffer.ModifiedNanoseconds));
        return 0;
    }

    /// <summary>A time that a file system may have from anybody, within what a date can be.</summary>
    private static long Ticks(long seconds, uint nanoseconds)
    {
        long since = DateTime.UnixEpoch.Ticks / TimeSpan.TicksPerSecond;
        long last = DateTime.MaxValue.Ticks / TimeSpan.TicksPerSecond - since - 1;
        return (Math.Clamp(seconds, -since, last) + since) * TimeSpan.TicksPerSecond
            + Math.Min(nanoseconds, 999_999_999) / 100;
    }

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true)]
    private static partial int StatxNative(int directory, byte* path, int flags, uint mask, StatxBuffer* buffer);
}
