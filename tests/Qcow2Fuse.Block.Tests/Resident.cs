// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Runtime.CompilerServices;

namespace Qcow2Fuse.Block.Tests;

/// <summary>Which memory of this process is there, and not only promised (proc(5), /proc/PID/pagemap).</summary>
internal static class Resident
{
    private const int EntrySize = 8;

    /// <summary>Whether the kernel has a page for the first byte of a span.</summary>
    public static unsafe bool HasPage(ref readonly byte first)
    {
        long page = (nint)Unsafe.AsPointer(ref Unsafe.AsRef(in first)) / Environment.SystemPageSize;
        using FileStream map = File.OpenRead("/proc/self/pagemap");
        map.Position = page * EntrySize;
        Span<byte> entry = stackalloc byte[EntrySize];
        map.ReadExactly(entry);
        return BinaryPrimitives.ReadInt64LittleEndian(entry) < 0;
    }
}
