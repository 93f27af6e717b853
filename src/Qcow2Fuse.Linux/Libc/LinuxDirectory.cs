// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>What is done with a directory, or with a name by the descriptor of its directory.</summary>
public static unsafe partial class LinuxDirectory
{
    private const int EntryHeader = 19;
    private const int EntryBuffer = 32768;

    /// <summary>
    /// openat(2): opens <paramref name="name"/> as seen from <paramref name="directory"/>, whatever links it leads
    /// through. <paramref name="mode"/> counts only with <see cref="OpenFlags.Create"/>.
    /// </summary>
    public static int OpenIn(int directory, string name, int flags, uint mode = 0)
    {
        while (true)
        {
            int result = OpenAtNative(directory, name, flags, mode);
            int errno = Marshal.GetLastPInvokeError();
            if (result >= 0)
                return result;
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    /// <summary>unlinkat(2) of a file: 0, or −errno.</summary>
    public static int Unlink(int directory, string name)
    {
        int result = UnlinkAtNative(directory, name, 0);
        int errno = Marshal.GetLastPInvokeError();
        return result < 0 ? -errno : 0;
    }

    /// <summary>
    /// Makes a directory with exactly this mode, whatever the umask is: 0, or −errno. −EEXIST where the name is taken;
    /// what is there, or mounted there, is asked nothing.
    /// </summary>
    public static int Make(string path, uint mode)
    {
        int result = MakeDirectoryNative(path, mode);
        int errno = Marshal.GetLastPInvokeError();
        return result < 0 ? -errno : SetMode(path, mode);
    }

    /// <summary>Sets the mode of a directory, not of one that a link leads to: 0, or −errno.</summary>
    public static int SetMode(string path, uint mode)
    {
        int fd = LinuxFile.Open(
            path, OpenFlags.ReadOnly | OpenFlags.Directory | OpenFlags.NoFollow | OpenFlags.CloseOnExec);
        if (fd < 0)
            return fd;
        int result = ChangeModeNative(fd, mode);
        int errno = Marshal.GetLastPInvokeError();
        _ = LinuxFile.Close(fd);
        return result < 0 ? -errno : 0;
    }

    /// <summary>
    /// The names in a directory (getdents64(2)) but "." and "..", in no order: those of regular files, of symbolic
    /// links, and of files of which the file system does not tell the kind here.
    /// </summary>
    /// <param name="fd">The directory, opened for reading; is at its end afterwards.</param>
    /// <param name="names">Gets the names.</param>
    /// <param name="bytesMax">Memory for them: they end where it does.</param>
    /// <returns>0, 1 where there are more, or −errno.</returns>
    public static int FileNames(int fd, List<string> names, long bytesMax)
    {
        byte[] buffer = new byte[EntryBuffer];
        fixed (byte* start = buffer)
        {
            while (true)
            {
                nint length = GetEntriesNative(fd, start, (nuint)buffer.Length);
                int errno = Marshal.GetLastPInvokeError();
                if (length == 0)
                    return 0;
                if (length < 0)
                    return -errno;
                for (int at = 0; at < length;)
                {
                    int size = *(ushort*)(start + at + 16);
                    if (AddName(buffer.AsSpan(at, size), names))
                        bytesMax -= BytesOf(names[^1]);
                    if (bytesMax < 0)
                    {
                        names.RemoveAt(names.Count - 1);
                        return 1;
                    }

                    at += size;
                }
            }
        }
    }

    /// <summary>Memory that a name takes, with what is usually kept for one.</summary>
    private static long BytesOf(string name)
    {
        const int Beside = 96;
        return Beside + (sizeof(char) * (long)name.Length);
    }

    /// <summary>Whether a directory has a name besides "." and "..".</summary>
    /// <param name="fd">The directory, opened for reading.</param>
    public static bool HasEntries(int fd)
    {
        byte[] buffer = new byte[EntryBuffer];
        fixed (byte* start = buffer)
        {
            nint length = GetEntriesNative(fd, start, (nuint)buffer.Length);
            for (int at = 0; at < length;)
            {
                int size = *(ushort*)(start + at + 16);
                ReadOnlySpan<byte> name = buffer.AsSpan(at + EntryHeader, size - EntryHeader);
                name = name[..name.IndexOf((byte)0)];
                if (!name.SequenceEqual("."u8) && !name.SequenceEqual(".."u8))
                    return true;
                at += size;
            }
        }

        return false;
    }

    /// <summary>struct linux_dirent64: inode, position, size, kind at 18, and the name to its NUL.</summary>
    private static bool AddName(ReadOnlySpan<byte> entry, List<string> names)
    {
        const byte Unknown = 0;
        const byte Regular = 8;
        const byte Link = 10;
        if (entry[EntryHeader - 1] is not (Unknown or Regular or Link))
            return false;
        ReadOnlySpan<byte> bytes = entry[EntryHeader..];
        bytes = bytes[..bytes.IndexOf((byte)0)];
        if (bytes.SequenceEqual("."u8) || bytes.SequenceEqual(".."u8))
            return false;
        names.Add(ByteText.Decode(bytes));
        return true;
    }

    [LibraryImport(
        "libc", EntryPoint = "mkdir", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int MakeDirectoryNative(string path, uint mode);

    [LibraryImport("libc", EntryPoint = "fchmod", SetLastError = true)]
    private static partial int ChangeModeNative(int fd, uint mode);

    [LibraryImport(
        "libc", EntryPoint = "openat", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int OpenAtNative(int directory, string name, int flags, uint mode);

    [LibraryImport(
        "libc", EntryPoint = "unlinkat", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int UnlinkAtNative(int directory, string name, int flags);

    [LibraryImport("libc", EntryPoint = "getdents64", SetLastError = true)]
    private static partial nint GetEntriesNative(int fd, byte* buffer, nuint length);
}
