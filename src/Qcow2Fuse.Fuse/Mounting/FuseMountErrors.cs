// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Fuse;

/// <summary>The sentences for what goes wrong while mounting.</summary>
internal static class FuseMountErrors
{
    public const string AllowOtherHint = "add the line user_allow_other to /etc/fuse.conf (as root)";

    public const string ContainerHint = "in a container: docker/podman run --device /dev/fuse --cap-add SYS_ADMIN";

    public const string DeviceHint =
        "in a container: docker/podman run --device /dev/fuse --cap-add SYS_ADMIN; on the host: ls -l /dev/fuse";

    /// <summary>The system's words for an error number.</summary>
    public static string Text(int errno) => Marshal.GetPInvokeErrorMessage(errno);

    public static FuseMountException Device(int errno) =>
        new(FuseMountError.NoDevice, $"{FuseDevice.Path}: {Text(errno)}", DeviceHint);

    public static FuseMountException NoHelper() => MountCalls.EffectiveUser() == 0
        ? new(FuseMountError.NotPermitted, "root may not mount here and fusermount3 is not installed", ContainerHint)
        : new(FuseMountError.NoHelper, "fusermount3 is not installed; users other than root need it",
            "apt install fuse3");

    public static FuseMountException MountPoint(string path, int errno) => errno is FuseErrno.ENOENT
        ? new(FuseMountError.MountPointMissing, $"{path}: mount point does not exist", $"mkdir {path}")
        : new(FuseMountError.MountPointUnusable, $"{path}: {Text(errno)}");

    public static FuseMountException Busy(string path) =>
        MountUsers.Describe(Fuse.MountPoint.Resolve(path)) is { } users
        ? new(FuseMountError.Busy, $"{path}: in use: {users}", $"umount -l {path} detaches it until they let go")
        : new(FuseMountError.Busy, $"{path}: in use", $"fuser -vm {path} shows by whom");

    public static FuseMountException MountCall(string path, int errno) => errno switch
    {
        FuseErrno.EPERM => new(
            FuseMountError.NotPermitted,
            $"{path}: mounting is not permitted",
            ContainerHint),
        FuseErrno.ENODEV => new(
            FuseMountError.System, $"{path}: the kernel has no FUSE file system", "modprobe fuse (as root)"),
        _ => new(FuseMountError.System, $"{path}: mount: {Text(errno)}"),
    };
}
