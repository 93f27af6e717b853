// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>
/// File system calls on plain descriptors. Nothing here throws or allocates managed memory except where a path is
/// taken: every call returns its result, or the negated error number (<see cref="Errno"/>). A call that a signal
/// interrupts is repeated, and short transfers are continued.
/// </summary>
public static unsafe partial class LinuxFile
{
    private const int SyscallOpenat2 = 437;
    private const int OpenAttempts = 64;

    /// <summary>open(2). <paramref name="mode"/> counts only with <see cref="OpenFlags.Create"/>.</summary>
    public static int Open(string path, int flags, uint mode = 0)
    {
        while (true)
        {
            int result = OpenNative(path, flags, mode);
            int errno = Marshal.GetLastPInvokeError();
            if (result >= 0)
                return result;
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    /// <summary>
    /// openat2(2): opens <paramref name="path"/> as seen from <paramref name="directory"/> under the restrictions of
    /// <paramref name="resolve"/>. −ENOSYS before Linux 5.6.
    /// </summary>
    public static int OpenAt(int directory, string path, int flags, ResolveFlags resolve)
    {
        OpenHow how = new() { Flags = (ulong)flags, Resolve = (ulong)resolve };
        for (int attempt = 1; ; attempt++)
        {
            long result = OpenAt2Native(SyscallOpenat2, directory, path, &how, (nuint)sizeof(OpenHow));
            int errno = Marshal.GetLastPInvokeError();
            if (result >= 0)
                return (int)result;

            // EAGAIN: a rename in the file system made the walk of ".." inconclusive.
            if (errno != Errno.EINTR && (errno != Errno.EAGAIN || attempt == OpenAttempts))
                return -errno;
        }
    }

    /// <summary>
    /// Whether openat2(2) is there: an old kernel answers ENOSYS, and the filter of an old container EPERM, which other
    /// files may answer too.
    /// </summary>
    public static bool HasOpenat2()
    {
        int fd = OpenAt(-100, "/", OpenFlags.PathOnly | OpenFlags.CloseOnExec, ResolveFlags.None);
        if (fd >= 0)
            _ = Close(fd);
        return fd >= 0;
    }

    /// <summary>close(2). The descriptor is gone whatever is returned, so nothing is repeated.</summary>
    public static int Close(int fd)
    {
        int result = CloseNative(fd);
        int errno = Marshal.GetLastPInvokeError();
        return result < 0 ? -errno : 0;
    }

    /// <summary>Closes a descriptor when a program is executed (FD_CLOEXEC): 0, or −errno.</summary>
    public static int CloseOnExec(int fd)
    {
        const int SetDescriptorFlags = 2;
        int result = FcntlNative(fd, SetDescriptorFlags, (FileLock*)1);
        int errno = Marshal.GetLastPInvokeError();
        return result < 0 ? -errno : 0;
    }

    /// <summary>
    /// Reads from <paramref name="offset"/> on until the span is full or the file ends: the bytes read, or −errno.
    /// With O_DIRECT only the end of the file stops a read between two multiples of <paramref name="alignment"/>,
    /// and a read that began there would be refused.
    /// </summary>
    public static int Read(int fd, Span<byte> destination, long offset, int alignment = 1)
    {
        fixed (byte* start = destination)
        {
            int done = 0;
            while (done < destination.Length)
            {
                nint result = PReadNative(fd, start + done, (nuint)(destination.Length - done), offset + done);
                int errno = Marshal.GetLastPInvokeError();
                if (result > 0)
                    done += (int)result;
                else if (result < 0 && errno != Errno.EINTR)
                    return -errno;
                if (result == 0 || (result > 0 && result % alignment != 0))
                    break;
            }

            return done;
        }
    }

    /// <summary>
    /// Reads what the page cache has from <paramref name="offset"/> on, without waiting (RWF_NOWAIT): the bytes read,
    /// fewer than asked where the rest is not there, or −EAGAIN.
    /// </summary>
    public static int ReadCached(int fd, Span<byte> destination, long offset)
    {
        const int NoWait = 8;
        fixed (byte* start = destination)
        {
            IoVector vector = new() { Base = start, Length = (nuint)destination.Length };
            nint result = PReadV2Native(fd, &vector, 1, offset, NoWait);
            int errno = Marshal.GetLastPInvokeError();
            return result >= 0 ? (int)result : -errno;
        }
    }

    /// <summary>Writes the whole span at <paramref name="offset"/>: 0, or −errno.</summary>
    public static int Write(int fd, ReadOnlySpan<byte> source, long offset)
    {
        fixed (byte* start = source)
        {
            int done = 0;
            while (done < source.Length)
            {
                nint result = PWriteNative(fd, start + done, (nuint)(source.Length - done), offset + done);
                int errno = Marshal.GetLastPInvokeError();
                if (result > 0)
                    done += (int)result;
                else if (result == 0)
                    return -Errno.EIO;
                else if (errno != Errno.EINTR)
                    return -errno;
            }

            return 0;
        }
    }

    /// <summary>Writes three spans one after the other as one request: 0, or −errno.</summary>
    public static int Write(
        int fd, ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, ReadOnlySpan<byte> third, long offset)
    {
        fixed (byte* p0 = first, p1 = second, p2 = third)
        {
            IoVector* vectors = stackalloc IoVector[3];
            vectors[0] = new IoVector { Base = p0, Length = (nuint)first.Length };
            vectors[1] = new IoVector { Base = p1, Length = (nuint)second.Length };
            vectors[2] = new IoVector { Base = p2, Length = (nuint)third.Length };
            return WriteVectors(fd, vectors, 3, offset);
        }
    }

    private static int WriteVectors(int fd, IoVector* vectors, int count, long offset)
    {
        while (count > 0)
        {
            if (vectors->Length == 0)
            {
                vectors++;
                count--;
                continue;
            }

            nint result = PWriteVNative(fd, vectors, count, offset);
            int errno = Marshal.GetLastPInvokeError();
            if (result == 0)
                return -Errno.EIO;
            if (result < 0)
            {
                if (errno != Errno.EINTR)
                    return -errno;
                continue;
            }

            offset += result;
            for (nuint left = (nuint)result; left > 0;)
            {
                nuint step = Math.Min(left, vectors->Length);
                vectors->Base += step;
                vectors->Length -= step;
                left -= step;
                if (vectors->Length == 0)
                {
                    vectors++;
                    count--;
                }
            }
        }

        return 0;
    }

    /// <summary>fdatasync(2): 0, or −errno.</summary>
    public static int DataSync(int fd)
    {
        while (true)
        {
            int result = FDataSyncNative(fd);
            int errno = Marshal.GetLastPInvokeError();
            if (result == 0)
                return 0;
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    /// <summary>
    /// syncfs(2): hands all that the kernel holds of the file system of <paramref name="fd"/> to whoever stores it.
    /// 0, or −errno.
    /// </summary>
    public static int SyncFileSystem(int fd)
    {
        int result = SyncFsNative(fd);
        int errno = Marshal.GetLastPInvokeError();
        return result == 0 ? 0 : -errno;
    }

    /// <summary>fallocate(2): 0, or −errno.</summary>
    public static int Fallocate(int fd, FallocateMode mode, long offset, long length)
    {
        while (true)
        {
            int result = FallocateNative(fd, (int)mode, offset, length);
            int errno = Marshal.GetLastPInvokeError();
            if (result == 0)
                return 0;
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    /// <summary>ftruncate(2): 0, or −errno.</summary>
    public static int Truncate(int fd, long length)
    {
        while (true)
        {
            int result = FTruncateNative(fd, length);
            int errno = Marshal.GetLastPInvokeError();
            if (result == 0)
                return 0;
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    /// <summary>lseek(2): the offset found, or −errno (−ENXIO where nothing of the kind follows).</summary>
    public static long Seek(int fd, long offset, SeekWhence whence)
    {
        long result = LSeekNative(fd, offset, (int)whence);
        int errno = Marshal.GetLastPInvokeError();
        return result < 0 ? -errno : result;
    }

    /// <summary>
    /// F_OFD_SETLK of fcntl(2): sets or clears a read lock of the open file description: 0, or −errno.
    /// </summary>
    public static int SetReadLock(int fd, long offset, long length, bool locked)
    {
        const int SetLock = 37;
        FileLock request = new()
        {
            Type = locked ? FileLock.Read : FileLock.Unlock,
            Start = offset,
            Length = length,
        };
        while (true)
        {
            int result = FcntlNative(fd, SetLock, &request);
            int errno = Marshal.GetLastPInvokeError();
            if (result == 0)
                return 0;
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    /// <summary>
    /// F_OFD_GETLK of fcntl(2): 1 if a lock of another open file description forbids a write lock on the range, 0 if
    /// none does, or −errno.
    /// </summary>
    public static int TestWriteLock(int fd, long offset, long length)
    {
        const int GetLock = 36;
        FileLock request = new() { Type = FileLock.Write, Start = offset, Length = length };
        int result = FcntlNative(fd, GetLock, &request);
        int errno = Marshal.GetLastPInvokeError();
        if (result != 0)
            return -errno;
        return request.Type == FileLock.Unlock ? 0 : 1;
    }

    [LibraryImport(
        "libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int OpenNative(string path, int flags, uint mode);

    [LibraryImport(
        "libc", EntryPoint = "syscall", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial nint OpenAt2Native(nint number, int directory, string path, OpenHow* how, nuint size);

    [LibraryImport("libc", EntryPoint = "close", SetLastError = true)]
    private static partial int CloseNative(int fd);

    [LibraryImport("libc", EntryPoint = "pread64", SetLastError = true)]
    private static partial nint PReadNative(int fd, byte* buffer, nuint length, long offset);

    [LibraryImport("libc", EntryPoint = "preadv64v2", SetLastError = true)]
    private static partial nint PReadV2Native(int fd, IoVector* vectors, int count, long offset, int flags);

    [LibraryImport("libc", EntryPoint = "pwrite64", SetLastError = true)]
    private static partial nint PWriteNative(int fd, byte* buffer, nuint length, long offset);

    [LibraryImport("libc", EntryPoint = "pwritev64", SetLastError = true)]
    private static partial nint PWriteVNative(int fd, IoVector* vectors, int count, long offset);

    [LibraryImport("libc", EntryPoint = "fdatasync", SetLastError = true)]
    private static partial int FDataSyncNative(int fd);

    [LibraryImport("libc", EntryPoint = "syncfs", SetLastError = true)]
    private static partial int SyncFsNative(int fd);

    [LibraryImport("libc", EntryPoint = "fallocate64", SetLastError = true)]
    private static partial int FallocateNative(int fd, int mode, long offset, long length);

    [LibraryImport("libc", EntryPoint = "ftruncate64", SetLastError = true)]
    private static partial int FTruncateNative(int fd, long length);

    [LibraryImport("libc", EntryPoint = "lseek64", SetLastError = true)]
    private static partial long LSeekNative(int fd, long offset, int whence);

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int FcntlNative(int fd, int command, FileLock* argument);

    /// <summary>struct open_how (include/uapi/linux/openat2.h).</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct OpenHow
    {
        public ulong Flags;
        public ulong Mode;
        public ulong Resolve;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct IoVector
    {
        public byte* Base;
        public nuint Length;
    }

    /// <summary>struct flock of 64-bit Linux; l_pid must be 0 for locks of open file descriptions.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 32)]
    private struct FileLock
    {
        public const short Read = 0;
        public const short Write = 1;
        public const short Unlock = 2;

        [FieldOffset(0)]
        public short Type;

        [FieldOffset(2)]
        public short Whence;

        [FieldOffset(8)]
        public long Start;

        [FieldOffset(16)]
        public long Length;

        [FieldOffset(24)]
        public int ProcessId;
    }
}
