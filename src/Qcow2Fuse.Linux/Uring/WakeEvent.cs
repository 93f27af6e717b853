// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Uring;

/// <summary>An eventfd(2): any thread wakes one that waits for its descriptor to become readable.</summary>
public sealed unsafe partial class WakeEvent : IDisposable
{
    /// <summary>POLLIN: what to wait for.</summary>
    public const uint Readable = 1;

    private const int NonBlockingCloseOnExec = 0x80800;

    private bool _disposed;

    private WakeEvent(int descriptor) => Descriptor = descriptor;

    /// <summary>The descriptor to wait for.</summary>
    public int Descriptor { get; }

    /// <summary>Makes one that has not been set: 0 or a negated error number.</summary>
    public static int Create(out WakeEvent? made)
    {
        int descriptor = EventNative(0, NonBlockingCloseOnExec);
        int errno = Marshal.GetLastPInvokeError();
        made = descriptor >= 0 ? new WakeEvent(descriptor) : null;
        return descriptor >= 0 ? 0 : -errno;
    }

    /// <summary>Wakes who waits, or the next who does. Allocates nothing.</summary>
    public void Set()
    {
        // It fails only where the event is set already, 2^64 times.
        ulong one = 1;
        _ = WriteNative(Descriptor, &one, sizeof(ulong));
    }

    /// <summary>Forgets that it was set.</summary>
    public void Reset()
    {
        ulong count;
        _ = ReadNative(Descriptor, &count, sizeof(ulong));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _ = LinuxFile.Close(Descriptor);
    }

    [LibraryImport("libc", EntryPoint = "eventfd", SetLastError = true)]
    private static partial int EventNative(uint count, int flags);

    [LibraryImport("libc", EntryPoint = "read")]
    private static partial nint ReadNative(int descriptor, void* buffer, nuint length);

    [LibraryImport("libc", EntryPoint = "write")]
    private static partial nint WriteNative(int descriptor, void* buffer, nuint length);
}
