// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>The sentences for what goes wrong while mounting.</summary>
internal static class FuseMountErrors
{
    public static FuseMountException Device(int errno) =>
        new(FuseMountError.NoDevice, $"{FuseDevice.Path}: {Errno.Text(errno)}");

    public static FuseMountException NoHelper() => MountCalls.EffectiveUser() == 0
        ? new(FuseMountError.NotPermitted, "root may not mount here and fusermount3 is not installed")
        : new(FuseMountError.NoHelper, "fusermount3 is not installed; users other than root need it");

    public static FuseMountException MountPoint(string path, int errno) => errno is Errno.ENOENT
        ? new(FuseMountError.MountPointMissing, $"{path}: mount point does not exist", path)
        : new(FuseMountError.MountPointUnusable, $"{path}: {Errno.Text(errno)}");

    /// <param name="path">An absolute path without symbolic links.</param>
    public static FuseMountException Busy(string path) =>
        MountUsers.Describe(path) is { } users
        ? new(FuseMountError.Busy, $"{path}: in use: {users}", path) { NamesUsers = true }
        : new(FuseMountError.Busy, $"{path}: in use", path);

    public static FuseMountException MountCall(string path, int errno) => errno switch
    {
        Errno.EPERM => new(
            FuseMountError.NotPermitted,
            $"{path}: mounting is not permitted"),
        Errno.ENODEV => new(
            FuseMountError.NoFileSystem, $"{path}: the kernel has no FUSE file system"),
        _ => new(FuseMountError.System, $"{path}: mount: {Errno.Text(errno)}"),
    };
}
