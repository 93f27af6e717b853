// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>
/// What the class library does with paths, for names of any bytes (<see cref="ByteText"/>), which it would change.
/// </summary>
public static unsafe partial class LinuxPath
{
    private const int FromHere = -100;
    private const int BytesMax = 4096;

    /// <summary>Whether a path leads to something, links followed.</summary>
    public static bool Exists(string path) => TryStatus(path, out _);

    /// <summary>Whether a path leads to a directory, links followed.</summary>
    public static bool IsDirectory(string path) =>
        TryStatus(path, out FileStatus status) && status.Type == FileType.Directory;

    /// <summary>Whether a path leads to something that is no directory, links followed.</summary>
    public static bool IsFile(string path) =>
        TryStatus(path, out FileStatus status) && status.Type != FileType.Directory;

    /// <summary>What a path leads to, links followed; false where that cannot be seen.</summary>
    public static bool TryStatus(string path, out FileStatus status)
    {
        status = default;
        return path.Length > 0 && !path.Contains('\0')
            && LinuxFile.Status(FromHere, path, followsLink: true, out status) == 0;
    }

    /// <summary>The absolute path, without "." and "..", which are taken away without a look at links.</summary>
    public static string Full(string path)
    {
        if (path.Contains('\0'))
            return path;

        // Of an absolute path the class library looks at nothing but the string.
        return Path.GetFullPath(path.StartsWith('/') ? path : Path.Combine(CurrentDirectory(), path));
    }

    /// <summary>The content of a symbolic link (readlink(2)); null where there is none.</summary>
    public static string? LinkTarget(string path)
    {
        if (path.Contains('\0'))
            return null;
        byte* buffer = stackalloc byte[BytesMax];
        nint length = ReadLinkNative(path, buffer, BytesMax);
        return length <= 0 ? null : ByteText.Decode(new ReadOnlySpan<byte>(buffer, (int)length));
    }

    /// <summary>The path without links and dots (realpath(3)); null where it leads nowhere.</summary>
    public static string? Real(string path)
    {
        if (path.Contains('\0'))
            return null;
        byte* buffer = stackalloc byte[BytesMax];
        return RealPathNative(path, buffer) is null
            ? null : ByteText.Decode(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(buffer));
    }

    /// <summary>The content of a small file of the kernel's, such as in /proc and /sys, as bytes in a string.</summary>
    /// <exception cref="IOException">It cannot be read.</exception>
    public static string ReadAllText(string path)
    {
        // Their sizes say nothing, so that the class library reads too little or complains.
        int fd = LinuxFile.Open(path, OpenFlags.ReadOnly | OpenFlags.CloseOnExec);
        if (fd < 0)
            throw new IOException($"{path}: {Errno.Text(-fd)}");
        byte[] bytes = new byte[BytesMax];
        int length = 0;
        int result;
        while ((result = LinuxStream.Read(fd, bytes.AsSpan(length))) > 0)
        {
            length += result;
            if (length == bytes.Length)
                Array.Resize(ref bytes, 2 * length);
        }

        _ = LinuxFile.Close(fd);
        return result == 0
            ? ByteText.Decode(bytes.AsSpan(0, length)) : throw new IOException($"{path}: {Errno.Text(-result)}");
    }

    private static string CurrentDirectory()
    {
        byte* buffer = stackalloc byte[BytesMax];
        return GetCurrentDirectoryNative(buffer, BytesMax) is null
            ? "/" : ByteText.Decode(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(buffer));
    }

    [LibraryImport(
        "libc", EntryPoint = "readlink", StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial nint ReadLinkNative(string path, byte* buffer, nuint size);

    [LibraryImport(
        "libc", EntryPoint = "realpath", StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial byte* RealPathNative(string path, byte* buffer);

    [LibraryImport("libc", EntryPoint = "getcwd")]
    private static partial byte* GetCurrentDirectoryNative(byte* buffer, nuint size);
}
