// SPDX-License-Identifier: MIT
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>
/// Memory that belongs to a descriptor (memfd_create(2)) and not to a process: what is stored in it is still there
/// when the process was killed, for whoever has the descriptor.
/// </summary>
public sealed unsafe partial class SharedPage : IDisposable
{
    private const uint CloseOnExec = 1;
    private const int ReadWrite = 3;
    private const int Shared = 1;

    private readonly nuint _length;
    private byte* _start;

    private SharedPage(int descriptor, byte* start, nuint length)
    {
        Descriptor = descriptor;
        _start = start;
        _length = length;
    }

    /// <summary>The descriptor, closed with the page.</summary>
    public int Descriptor { get; }

    /// <summary>All of its bytes.</summary>
    public Span<byte> Bytes => new(_start, (int)_length);

    /// <summary>Makes a page of zeroes. 0 or the negated error number.</summary>
    /// <param name="name">Shown in /proc/PID/fd.</param>
    /// <param name="length">Size in bytes.</param>
    /// <param name="page">The page, or null.</param>
    public static int Create(string name, int length, out SharedPage? page)
    {
        page = null;
        int descriptor = MemfdCreateNative(name, CloseOnExec);
        int errno = Marshal.GetLastPInvokeError();
        if (descriptor < 0)
            return -errno;
        int result = LinuxFile.Truncate(descriptor, length);
        if (result == 0)
            result = Open(descriptor, length, out page);
        if (result < 0)
            _ = LinuxFile.Close(descriptor);
        return result;
    }

    /// <summary>
    /// Takes over the descriptor of a page that another process made. 0 or the negated error number, and then the
    /// descriptor stays the caller's; −EINVAL if it is shorter than <paramref name="length"/>.
    /// </summary>
    public static int Open(int descriptor, int length, out SharedPage? page)
    {
        page = null;
        int result = LinuxFile.Status(descriptor, out FileStatus status);
        if (result < 0)
            return result;
        if (status.Size < length)
            return -Errno.EINVAL;
        void* start = MmapNative(null, (nuint)length, ReadWrite, Shared, descriptor, 0);
        int errno = Marshal.GetLastPInvokeError();
        if ((nint)start == -1)
            return -errno;
        page = new SharedPage(descriptor, (byte*)start, (nuint)length);
        return 0;
    }

    /// <summary>The number at an offset, a multiple of 8, for atomic access.</summary>
    public ref long Long(int offset) => ref Unsafe.AsRef<long>(_start + offset);

    /// <summary>The number at an offset, a multiple of 4, for atomic access.</summary>
    public ref int Int(int offset) => ref Unsafe.AsRef<int>(_start + offset);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_start == null)
            return;
        _ = MunmapNative(_start, _length);
        _start = null;
        _ = LinuxFile.Close(Descriptor);
    }

    [LibraryImport(
        "libc", EntryPoint = "memfd_create", SetLastError = true, StringMarshalling = StringMarshalling.Custom,
        StringMarshallingCustomType = typeof(NameMarshaller))]
    private static partial int MemfdCreateNative(string name, uint flags);

    [LibraryImport("libc", EntryPoint = "mmap64", SetLastError = true)]
    private static partial void* MmapNative(
        void* address, nuint length, int protection, int flags, int descriptor, long offset);

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    private static partial int MunmapNative(void* address, nuint length);
}
