// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Words of "-o", and what fusermount3 is told and answers.</summary>
public sealed class MountSpecTests
{
    private static readonly MountSpec Plain = new() { MountPoint = "/mnt", Source = "disk" };

    [Theory]
    [InlineData("ro", MountFlags.NoSetuid | MountFlags.NoDevices | MountFlags.ReadOnly)]
    [InlineData("ro,rw", MountFlags.NoSetuid | MountFlags.NoDevices)]
    [InlineData("suid,dev", MountFlags.None)]
    [InlineData("noatime,noexec,suid", MountFlags.NoDevices | MountFlags.NoAccessTimes | MountFlags.NoExecute)]
    public void FlagsSetAndClear(string words, MountFlags expected)
    {
        MountSpec spec = Plain;
        foreach (string word in words.Split(','))
            Assert.True(spec.TryApply(word, null, out spec));
        Assert.Equal(expected, spec.Flags);
    }

    [Fact]
    public void FlagsHaveTheKernelsNumbers()
    {
        (MountFlags Flag, ulong Number)[] numbers =
        [
            (MountFlags.ReadOnly, 1), (MountFlags.NoSetuid, 2), (MountFlags.NoDevices, 4), (MountFlags.NoExecute, 8),
            (MountFlags.Synchronous, 0x10), (MountFlags.SynchronousDirectories, 0x80),
            (MountFlags.NoAccessTimes, 0x400), (MountFlags.NoDirectoryAccessTimes, 0x800),
            (MountFlags.RelativeAccessTimes, 0x200000), (MountFlags.StrictAccessTimes, 0x1000000),
            (MountFlags.LazyTimes, 0x2000000),
        ];
        Assert.All(numbers, pair => Assert.Equal(pair.Number, (ulong)pair.Flag));
        Assert.Equal(Enum.GetValues<MountFlags>().Length - 1, numbers.Length);
    }

    [Fact]
    public void OptionsOfFuseAreApplied()
    {
        Assert.True(Plain.TryApply("allow_other", null, out MountSpec spec));
        Assert.True(spec.AllowOther);
        Assert.True(spec.TryApply("max_read", "65536", out spec));
        Assert.Equal(65536, spec.MaxRead);
        Assert.True(spec.TryApply("fsname", "x", out spec));
        Assert.Equal("x", spec.Source);
        Assert.True(spec.TryApply("auto_unmount", null, out spec));
        Assert.True(spec.AutoUnmount);
        Assert.True(spec.TryApply("default_permissions", null, out spec));
        Assert.True(spec.DefaultPermissions);
        Assert.False(spec.TryApply("cache", "none", out _));
    }

    [Theory]
    [InlineData("ro", "1")]
    [InlineData("allow_other", "yes")]
    [InlineData("max_read", null)]
    [InlineData("max_read", "-1")]
    [InlineData("max_read", "99999999999")]
    [InlineData("fsname", "")]
    public void WrongValuesAreRefused(string name, string? value) =>
        Assert.Throws<FormatException>(() => Plain.TryApply(name, value, out _));

    [Fact]
    public void FusermountOptionsAreEscaped()
    {
        MountSpec spec =
            Plain with { Source = @"a,b\c", AllowOther = true, Flags = MountFlags.ReadOnly, MaxRead = 4096 };
        Assert.Equal(
            @"ro,fsname=a\,b\\c,subtype=qcow2fuse,allow_other,default_permissions,max_read=4096",
            Fusermount.Options(spec));
    }

    [Theory]
    [InlineData(
        "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n",
        FuseMountError.AllowOtherRefused)]
    [InlineData("fusermount3: failed to open /dev/fuse: Permission denied\n", FuseMountError.NoDevice)]
    [InlineData("fusermount3: user has no write access to mountpoint /mnt\n", FuseMountError.MountPointUnusable)]
    [InlineData("fusermount3: mount failed: Operation not permitted\n", FuseMountError.NotPermitted)]
    [InlineData("", FuseMountError.System)]
    public void FusermountsComplaintsAreUnderstood(string complaint, FuseMountError error)
    {
        FuseMountException failure = Fusermount.Failure("/mnt", complaint);
        Assert.Equal(error, failure.Error);
        Assert.DoesNotContain("fusermount3: ", failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(
        "/usr/bin/fusermount3: user has no write access to mountpoint /mnt\n",
        "/mnt: user has no write access to mountpoint /mnt")]
    [InlineData(
        "/usr/bin/fusermount3: entry for /mnt not found\n/usr/bin/fusermount3: cannot run fusermount3: no\n",
        "/mnt: entry for /mnt not found; cannot run fusermount3: no")]
    public void FusermountsMessagesArePassedOnWhole(string complaint, string message) =>
        Assert.Equal(message, Fusermount.Failure("/mnt", complaint).Message);

    [Fact]
    public void LabelsAreTheKernelsWhereItKnowsThem()
    {
        MountSpec spec = Plain with { SecurityOptions = [("context", "system_u:object_r:virt_image_t:s0:c1,c2")] };
        bool isOn = File.Exists("/sys/fs/selinux/enforce");
        Assert.Equal(isOn ? spec.SecurityOptions : [], spec.EffectiveSecurityOptions);
        Assert.Equal(
            isOn,
            Fusermount.Options(spec).Contains(
                @"context=system_u:object_r:virt_image_t:s0:c1\,c2", StringComparison.Ordinal));
    }

    [Fact]
    public void MissingMountPointIsNamed()
    {
        string path = Path.Combine(Path.GetTempPath(), "qcow2fuse-" + Guid.NewGuid().ToString("N"));
        FuseMountException failure = Assert.Throws<FuseMountException>(
            () => FuseMount.Mount(Plain with { MountPoint = path }));
        Assert.Equal(FuseMountError.MountPointMissing, failure.Error);
        Assert.Equal($"{path}: mount point does not exist", failure.Message);
    }

    [Fact]
    public void DevicesAreNoMountPoints()
    {
        FuseMountException failure = Assert.Throws<FuseMountException>(
            () => FuseMount.Mount(Plain with { MountPoint = "/dev/null" }));
        Assert.Equal(FuseMountError.MountPointUnusable, failure.Error);
    }
}
