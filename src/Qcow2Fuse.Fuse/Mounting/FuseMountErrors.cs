// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Fuse;

/// <summary>The sentences for what goes wrong while mounting.</summary>
internal static class FuseMountErrors
{
    /// <summary>The system's words for an error number.</summary>
    public static string Text(int errno) => Marshal.GetPInvokeErrorMessage(errno);

    public static FuseMountException Device(int errno) =>
        new(FuseMountError.NoDevice, $"{FuseDevice.Path}: {Text(errno)}");

    public static FuseMountException NoHelper() => MountCalls.EffectiveUser() == 0
        ? new(FuseMountError.NotPermitted, "root may not mount here and fusermount3 is not installed")
        : new(FuseMountError.NoHelper, "fusermount3 is not installed; users other than root need it");

    public static FuseMountException MountPoint(string path, int errno) => errno is FuseErrno.ENOENT
        ? new(FuseMountError.MountPointMissing, $"{path}: mount point does not exist", path)
        : new(FuseMountError.MountPointUnusable, $"{path}: {Text(errno)}");

    /// <param name="path">An absolute path without symbolic links.</param>
    public static FuseMountException Busy(string path) =>
        MountUsers.Describe(path) is { } users
        ? new(FuseMountError.Busy, $"{path}: in use: {users}", path) { NamesUsers = true }
        : new(FuseMountError.Busy, $"{path}: in use", path);

    public static FuseMountException MountCall(string path, int errno) => errno switch
    {
        FuseErrno.EPERM => new(
            FuseMountError.NotPermitted,
            $"{path}: mounting is not permitted"),
        FuseErrno.ENODEV => new(
            FuseMountError.NoFileSystem, $"{path}: the kernel has no FUSE file system"),
        _ => new(FuseMountError.System, $"{path}: mount: {Text(errno)}"),
    };
}
