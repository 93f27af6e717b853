// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>
/// A mount was looked up, and then whoever owns a directory above it puts something else where it was: a link to a
/// place where another mount is. What is done reaches the mount that was meant, or nothing.
/// </summary>
public sealed class MountRootTests : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("qcow2fuse-root-");

    public enum Exchange
    {
        Parent,
        MountPoint,
        Cover,
    }

    [SkippableTheory]
    [InlineData(Exchange.Parent)]
    [InlineData(Exchange.MountPoint)]
    public void WhatIsInItsPlaceByNowIsNotTouched(Exchange exchange)
    {
        MountEntry mount = Prepare(exchange);
        foreach (bool lazy in (bool[])[false, true])
        {
            Assert.Equal(-Errno.EINVAL, MountRoot.Unmount(mount, lazy));
            FuseMountException failure = Assert.Throws<FuseMountException>(() => FuseMount.Unmount(mount, lazy));
            Assert.Equal(FuseMountError.NotMounted, failure.Error);
        }

        Assert.Equal(-Errno.EINVAL, MountRoot.Abort(mount));
        Assert.Equal(-Errno.EINVAL, MountRoot.Open(mount));
        Assert.Equal(-Errno.EINVAL, MountRoot.Reopen(mount, OpenFlags.ReadOnly));
        Assert.Throws<FuseMountException>(() => FuseMount.Remount(mount, MountFlags.ReadOnly));
        ShouldBeUntouched();
    }

    [SkippableFact]
    public void WhatIsAtItsPlaceIsReached()
    {
        MountEntry mount = Prepare(exchange: null);
        int descriptor = MountRoot.Reopen(mount, OpenFlags.ReadOnly);
        Assert.True(descriptor >= 0);
        Assert.Equal(mount.Id, MountRoot.EntryOf(descriptor)?.Id);
        Assert.Equal(-Errno.EBUSY, MountRoot.Unmount(mount, lazy: false));
        Assert.Equal(0, LinuxFile.Close(descriptor));
        FuseMount.Remount(mount, MountFlags.ReadOnly);
        Assert.Contains("ro", MountTable.Find(mount)!.SuperOptions.Split(','));
        Assert.Equal(0, MountRoot.Unmount(mount, lazy: false));
        Assert.Null(MountTable.Find(mount));
        ShouldBeUntouched();
    }

    [SkippableFact]
    public void WhatIsCoveredIsNeitherUnmountedNorOpened()
    {
        MountEntry mount = Prepare(Exchange.Cover);
        Assert.Equal(-Errno.ESTALE, MountRoot.Unmount(mount, lazy: true));
        Assert.Equal(-Errno.ESTALE, MountRoot.Open(mount));
        Assert.Equal(-Errno.ESTALE, MountRoot.Reopen(mount, OpenFlags.ReadOnly));
        Assert.NotNull(MountTable.Find(mount));
        FuseMountException failure =
            Assert.Throws<FuseMountException>(() => FuseMount.Unmount(mount, lazy: true));
        Assert.Contains("another mount covers it", failure.Message, StringComparison.Ordinal);
        ShouldBeUntouched();
    }

    [SkippableFact]
    public void WhatHasGoneIsSaidToBeSo()
    {
        MountEntry mount = Prepare(exchange: null);
        Shell.Output("umount \"$1\" && mount -t tmpfs later \"$1\"", mount.MountPoint);
        Assert.Equal(-Errno.EINVAL, MountRoot.Unmount(mount, lazy: true));
        Assert.Equal("later", MountTable.FindAt(mount.MountPoint)?.Source);
    }

    /// <summary>To open one waits for somebody who writes to it, and may do worse with a device.</summary>
    [SkippableFact]
    public void WhatIsNoFileIsNotOpened()
    {
        Require();
        Shell.Output("mkfifo \"$1/fifo\"; : >\"$1/file\"; mount --bind \"$1/fifo\" \"$1/file\"", _directory.FullName);
        MountEntry mount = MountTable.FindAt(Path.Combine(_directory.FullName, "file"))!;
        Task<int> opening = Task.Run(() => MountRoot.Reopen(mount, OpenFlags.ReadOnly));
        Assert.True(opening.Wait(Eventually.Patience), "the open waits");
        Assert.Equal(-Errno.EOPNOTSUPP, opening.Result);
    }

    public void Dispose()
    {
        Shell.Run(
            "grep -F \"$1/\" /proc/self/mountinfo | cut -d' ' -f5 | tac | xargs -r -n1 umount -l", _directory.FullName);
        _directory.Delete(recursive: true);
    }

    private static void Require() =>
        Skip.IfNot(Environment.IsPrivilegedProcess, "only root can mount here");

    /// <summary>
    /// Mounts at home/mnt and at system/mnt, and puts something in the place of the first after it was looked up.
    /// </summary>
    private MountEntry Prepare(Exchange? exchange)
    {
        Require();
        Shell.Output(
            "cd \"$1\" && mkdir -p home/mnt system/mnt && mount -t tmpfs meant home/mnt && mount -t tmpfs system "
            + "system/mnt", _directory.FullName);
        MountEntry mount = MountTable.FindAt(Path.Combine(_directory.FullName, "home/mnt"))!;
        string script = exchange switch
        {
            Exchange.Parent => "mv home away && ln -s system home",

            // In another namespace it is no mount point, and can be renamed.
            Exchange.MountPoint =>
                "unshare -m sh -c 'umount home/mnt && mv home/mnt home/away && ln -s ../system/mnt home/mnt'",
            Exchange.Cover => "mount -t tmpfs cover home && mkdir home/mnt",
            _ => ":",
        };
        Shell.Output("cd \"$1\" && " + script, _directory.FullName);
        return mount;
    }

    private void ShouldBeUntouched()
    {
        MountEntry? other = MountTable.FindAt(Path.Combine(_directory.FullName, "system/mnt"));
        Assert.Equal("system", other?.Source);
        Assert.DoesNotContain("ro", other!.SuperOptions.Split(','));
    }
}
