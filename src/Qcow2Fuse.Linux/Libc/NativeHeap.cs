// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>The allocator of the C library.</summary>
public static partial class NativeHeap
{
    private const int ArenaMax = -8;

    /// <summary>
    /// Lets all threads share so many arenas (mallopt(3), M_ARENA_MAX). Otherwise each thread reserves 64 MiB of
    /// address space of its own, which sixteen of them do not find under a limit of 1 GiB. To be called before the
    /// threads begin. False if the C library refuses.
    /// </summary>
    public static bool TryLimitArenas(int count) => SetOption(ArenaMax, count) == 1;

    [LibraryImport("libc", EntryPoint = "mallopt", SetLastError = true)]
    private static partial int SetOption(int option, int value);
}
