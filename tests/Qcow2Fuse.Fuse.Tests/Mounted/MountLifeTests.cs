// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>How mounts begin and end, with requests by /dev/fuse.</summary>
public sealed class MountLifeTests() : MountLife("fuse")
{
    [SkippableFact]
    public void AutoUnmountFollowsTheDeathOfTheServer()
    {
        using HostProcess host = Start(Place.MountPoint, "auto_unmount");
        Assert.True(File.Exists(host.FilePath));
        host.Signal("KILL");
        Eventually.Holds(() => !Place.IsMounted);
    }
}

/// <summary>How mounts begin and end, with requests over io_uring.</summary>
public sealed class UringMountLifeTests() : MountLife("uring");

/// <summary>How mounts begin and end.</summary>
public abstract class MountLife(string transport) : IDisposable
{
    private readonly MountDirectory _directory = new();

    private protected MountDirectory Place => _directory;

    /// <inheritdoc/>
    public void Dispose()
    {
        _directory.Dispose();
        GC.SuppressFinalize(this);
    }

    [SkippableFact]
    public void SignalEndsIt()
    {
        using HostProcess host = Start(_directory.MountPoint);
        host.Signal("TERM");
        Assert.Equal(0, host.WaitForExit());
        Assert.False(_directory.IsMounted);
    }

    [SkippableTheory]
    [InlineData("umount \"$1\"")]
    [InlineData("umount -l \"$1\"")]
    [InlineData("umount -f \"$1\"")]
    [InlineData("fusermount3 -u \"$1\"")]
    public void UnmountEndsIt(string command)
    {
        using HostProcess host = Start(_directory.MountPoint);
        (int exitCode, string output) = Shell.Run(command, host.MountPoint);

        // With -f it ends the session first, and the server may take the mount down before umount comes to that.
        Assert.True(exitCode == 0 || command.StartsWith("umount -f", StringComparison.Ordinal), output);
        Assert.Equal(0, host.WaitForExit());
        Assert.False(_directory.IsMounted);
    }

    [SkippableFact]
    public void OpenFilesAreServedAfterALazyUnmount()
    {
        using HostProcess host = Start(_directory.MountPoint);
        using (FileStream file = new(host.FilePath, FileMode.Open, FileAccess.ReadWrite))
        {
            Shell.Output("umount -l \"$1\"", host.MountPoint);
            file.Position = 1 << 20;
            file.Write("still here"u8);
            file.Flush(flushToDisk: true);
        }

        Assert.Equal(0, host.WaitForExit());
    }

    [SkippableFact]
    public void IdleWorkersDoNotSpin()
    {
        using HostProcess host = Start(_directory.MountPoint);
        File.ReadAllBytes(host.FilePath);
        Eventually.Sleeps(host.Id);
    }

    [SkippableFact]
    public void StopEndsWorkersThatWaitForTheKernel()
    {
        using HostProcess host = Start(_directory.MountPoint, "stop");
        host.Signal("TERM");
        Assert.Equal(0, host.WaitForExit());
        Assert.False(_directory.IsMounted);
    }

    [SkippableFact]
    public void StaleMountIsTakenOver()
    {
        HostProcess dead = Start(_directory.MountPoint);
        dead.Signal("KILL");
        dead.WaitForExit();
        Assert.True(_directory.IsMounted);

        // Rings outlive their process for a moment, and the session with them.
        Eventually.Holds(
            () => MountPoint.Inspect(_directory.MountPoint, "qcow2fuse").State == MountPointState.Stale);

        using HostProcess host = Start(_directory.MountPoint);
        Assert.Equal(HostProcess.Size, new FileInfo(host.FilePath).Length);
        Assert.Single(MountTable.Read(), entry => entry.MountPoint == _directory.MountPoint);
        host.Signal("TERM");
        Assert.Equal(0, host.WaitForExit());
        dead.Dispose();
    }

    [SkippableFact]
    public void LivingMountIsNotTakenOver()
    {
        using HostProcess host = Start(_directory.MountPoint);
        (int exitCode, string errors) = Shell.Run(
            "\"$1\" \"$2\" 4096", HostProcess.Program, _directory.MountPoint);
        Assert.Equal(32, exitCode);
        Assert.Contains("AlreadyMounted", errors, StringComparison.Ordinal);
        Assert.Contains("memory, file is mounted here already", errors, StringComparison.Ordinal);
        Assert.True(File.Exists(host.FilePath));
    }

    [SkippableFact]
    public void AFileIsMountedOnAFile()
    {
        using MountDirectory directory = new(file: true);
        using HostProcess host = Start(directory.MountPoint, "file");
        Assert.Equal(HostProcess.Size, new FileInfo(directory.MountPoint).Length);
        Shell.Output("printf hello | dd of=\"$1\" bs=1 seek=5000 conv=notrunc status=none", directory.MountPoint);
        Assert.Equal("hello", Shell.Output(
            "dd if=\"$1\" bs=1 skip=5000 count=5 status=none", directory.MountPoint));
        host.Signal("TERM");
        Assert.Equal(0, host.WaitForExit());
        Assert.Equal(0, new FileInfo(directory.MountPoint).Length);
    }

    [SkippableFact]
    public void ReadOnlyMountRefusesWrites()
    {
        using HostProcess host = Start(_directory.MountPoint, "ro,noatime,allow_other,max_read=65536");
        Assert.Contains(
            "Read-only file system", Shell.Run("echo x > \"$1\"", host.FilePath).Output, StringComparison.Ordinal);
        string options = Shell.Output("findmnt -n -o OPTIONS \"$1\"", host.MountPoint);
        Assert.Contains("ro,nosuid,nodev,noatime", options, StringComparison.Ordinal);
        Assert.Contains("allow_other", options, StringComparison.Ordinal);
        Assert.Contains("default_permissions", options, StringComparison.Ordinal);
        Assert.Equal("67108864", Shell.Output("cat \"$1\" | wc -c", host.FilePath));
    }

    [SkippableFact]
    public void BusyMountIsNotUnmounted()
    {
        using HostProcess host = Start(_directory.MountPoint);
        MountEntry mount = MountTable.FindAt(_directory.MountPoint)!;
        using (new FileStream(host.FilePath, FileMode.Open, FileAccess.Read))
        {
            FuseMountException failure = Assert.Throws<FuseMountException>(
                () => FuseMount.Unmount(mount, lazy: false));
            Assert.Equal(FuseMountError.Busy, failure.Error);
        }

        // A program that another test is starting has a copy of the open file until it runs.
        Eventually.Holds(() => CanUnmount(mount));
        Assert.Equal(0, host.WaitForExit());
        FuseMountException again = Assert.Throws<FuseMountException>(() => FuseMount.Unmount(mount, lazy: false));
        Assert.Equal(FuseMountError.NotMounted, again.Error);
    }

    [SkippableFact]
    public void ReadAheadIsRaised()
    {
        using HostProcess host = Start(_directory.MountPoint);
        string path = $"/sys/class/bdi/{MountTable.FindAt(_directory.MountPoint)!.Device}/read_ahead_kb";
        Skip.IfNot(File.Exists(path), $"{path} does not exist");
        Eventually.Holds(() => File.ReadAllText(path) == "2048\n");
    }

    private protected HostProcess Start(string mountPoint, string words = "") =>
        HostProcess.StartOver(transport, mountPoint, words);

    private static bool CanUnmount(MountEntry mount)
    {
        try
        {
            FuseMount.Unmount(mount, lazy: false);
            return true;
        }
        catch (FuseMountException e) when (e.Error == FuseMountError.Busy)
        {
            return false;
        }
    }
}
