// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// QEMU's image locks, so that QEMU and this program refuse each other as two QEMUs do: a read lock of the open file
/// description on byte 100 + n for every permission held and on byte 200 + n for every one not shared, n being the
/// bit number in <see cref="ImagePermissions"/>. docs/image-locks.md has the table.
/// </summary>
/// <remarks>
/// The locks end with the last descriptor of the open file, and a process that is just being started holds copies of
/// all of them until it runs its program: whoever closes a file gives its locks back first.
/// </remarks>
internal static class ImageLock
{
    private const int HeldBase = 100;
    private const int UnsharedBase = 200;
    private const int PermissionCount = 4;

    /// <summary>
    /// Takes the locks for <paramref name="mode"/>, then asks whether others forbid it; in this order, so that of two
    /// that come at once at least one sees the other.
    /// </summary>
    public static void Acquire(
        IOpener opener, int fd, string name, FileIdentity identity, ImageLockMode mode, bool isReadOnly)
    {
        int errno = SetOwn(fd, mode);
        if (errno is Errno.EAGAIN or Errno.EACCES)
            throw InUse(opener, name, identity, HeldBase);
        if (errno != 0)
        {
            Release(fd);
            if (isReadOnly)
                return;
            throw new BlockException(
                BlockErrorKind.NotSupported,
                $"{name}: cannot be locked ({Errno.Text(errno)}), so another program could write to it too",
                cause: FailureCode.CannotLock);
        }

        int hit = FindConflict(fd, mode);
        if (hit < 0)
            return;
        Release(fd);
        throw InUse(opener, name, identity, hit);
    }

    private static int SetOwn(int fd, ImageLockMode mode)
    {
        for (int n = 0; n < PermissionCount; n++)
        {
            int result = Has(mode.Held, n) ? LinuxFile.SetReadLock(fd, HeldBase + n, 1, locked: true) : 0;
            if (result == 0 && Has(mode.Unshared, n))
                result = LinuxFile.SetReadLock(fd, UnsharedBase + n, 1, locked: true);
            if (result < 0)
                return -result;
        }

        return 0;
    }

    /// <summary>The first byte locked by somebody who forbids what we do or does what we forbid, or −1.</summary>
    private static int FindConflict(int fd, ImageLockMode mode)
    {
        for (int n = 0; n < PermissionCount; n++)
        {
            if (Has(mode.Held, n) && LinuxFile.TestWriteLock(fd, UnsharedBase + n, 1) != 0)
                return UnsharedBase + n;
            if (Has(mode.Unshared, n) && LinuxFile.TestWriteLock(fd, HeldBase + n, 1) != 0)
                return HeldBase + n;
        }

        return -1;
    }

    /// <summary>Gives all locks of the open file back, whoever has a descriptor of it.</summary>
    public static void Release(int fd)
    {
        _ = LinuxFile.SetReadLock(fd, HeldBase, PermissionCount, locked: false);
        _ = LinuxFile.SetReadLock(fd, UnsharedBase, PermissionCount, locked: false);
    }

    private static BlockException InUse(IOpener opener, string name, FileIdentity identity, int lockedByte)
    {
        string holder = LockHolder.Find(opener, identity, lockedByte, out int process) ?? "another process";
        return new BlockException(
            BlockErrorKind.Locked,
            $"{name}: is in use by {holder}",
            cause: new(FailureCode.InUse) { Process = process });
    }

    private static bool Has(ImagePermissions set, int n) => ((int)set >> n & 1) != 0;
}
