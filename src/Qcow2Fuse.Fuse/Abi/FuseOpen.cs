// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Fuse.Abi;

/// <summary>How a file is opened: the flags of open(2), and who opens it.</summary>
/// <param name="Flags">Flags as the processor family numbers them; creation flags are gone.</param>
/// <param name="ProcessId">The caller's thread id as seen from the mounting process's namespace; 0 if outside.</param>
/// <param name="UserId">The caller's file system uid.</param>
public readonly record struct FuseOpenRequest(uint Flags, uint ProcessId, uint UserId)
{
    private const uint AccessModeMask = 3;

    private static readonly uint DirectFlag =
        RuntimeInformation.ProcessArchitecture is Architecture.Arm64 ? 0x10000u : 0x4000u;

    /// <summary>Whether it is opened for writing (O_WRONLY or O_RDWR).</summary>
    public bool Writes => (Flags & AccessModeMask) != 0;

    /// <summary>Whether O_DIRECT is set.</summary>
    public bool IsDirect => (Flags & DirectFlag) != 0;
}

/// <summary>How the kernel is to treat an open file (FOPEN_*).</summary>
[Flags]
public enum FuseOpenFlags : uint
{
    /// <summary>Nothing out of the ordinary.</summary>
    None = 0,

    /// <summary>Requests go past the page cache.</summary>
    DirectIO = 1 << 0,

    /// <summary>Pages that are in the cache stay valid.</summary>
    KeepCache = 1 << 1,

    /// <summary>Direct writes to one file need not wait for each other; with <see cref="DirectIO"/>.</summary>
    ParallelDirectWrites = 1 << 6,
}

/// <summary>The answer to an open.</summary>
/// <param name="Handle">Comes back with every request on this open file.</param>
/// <param name="Flags">How the kernel is to treat it.</param>
public readonly record struct FuseOpenResult(ulong Handle, FuseOpenFlags Flags)
{
    /// <summary>
    /// For the image of a disk. The kernel locks the inode for the whole of a direct write unless the open is
    /// both direct and parallel; other opens keep the page cache, so that hot reads never come here.
    /// </summary>
    public static FuseOpenResult ForDisk(FuseOpenRequest request, ulong handle) => new(
        handle,
        request.IsDirect ? FuseOpenFlags.DirectIO | FuseOpenFlags.ParallelDirectWrites : FuseOpenFlags.KeepCache);
}
