// SPDX-License-Identifier: MIT
using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Exerciser;

/// <summary>The system calls under test, without a runtime between them and the caller.</summary>
internal static unsafe partial class Native
{
    /// <summary>O_DIRECT; differs on arm64.</summary>
    public static readonly int OpenDirect =
        RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 0x10000 : 0x4000;

    public const int PunchHole = 3;
    public const int ZeroRange = 0x11;

    private const int ReadWriteCloseOnExec = 0x80002;
    private const int ProtectReadWrite = 3;
    private const int MapShared = 1;
    private const int SyncNow = 4;

    /// <summary>Opens an existing file for reading and writing.</summary>
    public static int Open(string path, int flags) => Check(OpenNative(path, ReadWriteCloseOnExec | flags, 0), "open");

    /// <summary>Closes a descriptor.</summary>
    public static void Close(int fd) => Check(CloseNative(fd), "close");

    /// <summary>Reads all of a range, in as many calls as it takes.</summary>
    public static void Read(int fd, Span<byte> target, long offset)
    {
        fixed (byte* bytes = target)
        {
            for (int done = 0; done < target.Length;)
            {
                nint got = CheckLong(
                    ReadNative(fd, bytes + done, (nuint)(target.Length - done), offset + done), "pread");
                if (got == 0)
                    throw new InvalidDataException($"pread: the file ends at {offset + done}");
                done += (int)got;
            }
        }
    }

    /// <summary>Writes all of a range.</summary>
    public static void Write(int fd, ReadOnlySpan<byte> source, long offset)
    {
        fixed (byte* bytes = source)
        {
            for (int done = 0; done < source.Length;)
            {
                done += (int)CheckLong(
                    WriteNative(fd, bytes + done, (nuint)(source.Length - done), offset + done), "pwrite");
            }
        }
    }

    /// <summary>fallocate(2).</summary>
    public static void Allocate(int fd, int mode, long offset, long length) =>
        Check(AllocateNative(fd, mode, offset, length), "fallocate");

    /// <summary>fsync(2).</summary>
    public static void Sync(int fd) => Check(SyncNative(fd), "fsync");

    /// <summary>Maps a whole file, shared and writable.</summary>
    public static byte* Map(int fd, long length)
    {
        nint address = MapNative(0, (nuint)length, ProtectReadWrite, MapShared, fd, 0);
        return address != -1 ? (byte*)address : throw Failure("mmap");
    }

    /// <summary>msync(2) with MS_SYNC; the start is rounded down to a page.</summary>
    public static void SyncMapped(byte* address, long length)
    {
        nint page = (nint)address & ~(nint)4095;
        Check(SyncMappedNative(page, (nuint)((nint)address + length - page), SyncNow), "msync");
    }

    /// <summary>munmap(2).</summary>
    public static void Unmap(byte* address, long length) => Check(UnmapNative((nint)address, (nuint)length), "munmap");

    private static int Check(int result, string call) => result >= 0 ? result : throw Failure(call);

    private static nint CheckLong(nint result, string call) => result >= 0 ? result : throw Failure(call);

    private static IOException Failure(string call)
    {
        int errno = Marshal.GetLastPInvokeError();
        return new IOException($"{call}: {new Win32Exception(errno).Message}");
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int OpenNative(string path, int flags, uint mode);

    [LibraryImport("libc", EntryPoint = "close", SetLastError = true)]
    private static partial int CloseNative(int fd);

    [LibraryImport("libc", EntryPoint = "pread64", SetLastError = true)]
    private static partial nint ReadNative(int fd, byte* buffer, nuint count, long offset);

    [LibraryImport("libc", EntryPoint = "pwrite64", SetLastError = true)]
    private static partial nint WriteNative(int fd, byte* buffer, nuint count, long offset);

    [LibraryImport("libc", EntryPoint = "fallocate64", SetLastError = true)]
    private static partial int AllocateNative(int fd, int mode, long offset, long length);

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    private static partial int SyncNative(int fd);

    [LibraryImport("libc", EntryPoint = "mmap64", SetLastError = true)]
    private static partial nint MapNative(nint address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc", EntryPoint = "msync", SetLastError = true)]
    private static partial int SyncMappedNative(nint address, nuint length, int flags);

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    private static partial int UnmapNative(nint address, nuint length);
}
