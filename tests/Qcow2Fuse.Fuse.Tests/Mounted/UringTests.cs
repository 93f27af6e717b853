// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>What is particular to requests over io_uring.</summary>
public sealed class UringTests : IDisposable
{
    private const int Users = 4;

    private readonly MountDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    [SkippableFact]
    public void WithoutTheSwitchDevFuseServes()
    {
        HostProcess.Require();
        UringSwitch.Require();
        HostProcess host;
        using (UringSwitch.Hold(on: false))
            host = HostProcess.Start(_directory.MountPoint, "uring");
        using (host)
        {
            Assert.False(host.HasRings);
            Assert.Equal("67108864", Shell.Output("cat \"$1\" | wc -c", host.FilePath));
            host.Signal("TERM");
            Assert.Equal(0, host.WaitForExit());
            Assert.Contains(
                "no io_uring: /sys/module/fuse/parameters/enable_uring is N", host.Errors, StringComparison.Ordinal);
        }
    }

    [SkippableFact]
    public void WithAutoUnmountDevFuseServes()
    {
        UringSwitch.Require();
        HostProcess host;
        using (UringSwitch.Hold(on: true))
            host = HostProcess.StartOver("fuse", _directory.MountPoint, "auto_unmount,uring");
        using (host)
        {
            Assert.False(host.HasRings);
            host.Signal("KILL");
            host.WaitForExit();
            Assert.Contains(
                "no io_uring: auto_unmount works with /dev/fuse only", host.Errors, StringComparison.Ordinal);
            Eventually.Holds(() => !_directory.IsMounted);
        }
    }

    /// <summary>A request comes to the queue of the processor that its user runs on.</summary>
    [SkippableFact]
    public void EveryProcessorIsServed()
    {
        using HostProcess host = HostProcess.StartOver("uring", _directory.MountPoint);
        for (int processor = 0; processor < Environment.ProcessorCount; processor++)
        {
            string script = "taskset -c \"$2\" dd if=\"$1\" of=/dev/null bs=64k iflag=direct count=64 2>&1 | tail -n 1";
            string line = Shell.Output(
                script, host.FilePath, processor.ToString(CultureInfo.InvariantCulture));
            Assert.StartsWith("4194304 bytes", line, StringComparison.Ordinal);
        }
    }

    [SkippableFact]
    public void AKilledServerLeavesNobodyWaiting()
    {
        using HostProcess host = HostProcess.StartOver("uring", _directory.MountPoint);
        Task<(int ExitCode, string Output)>[] users = StartUsers(
            host, "dd if=\"$1\" of=\"$1\" bs=4k count=500 iflag=direct oflag=direct conv=notrunc status=none");
        host.Signal("KILL");
        host.WaitForExit();
        Assert.True(Task.WaitAll(users, Eventually.Patience));
        Assert.All(users, static user => Assert.NotEqual(0, user.Result.ExitCode | user.Result.Output.Length));
    }

    [SkippableFact]
    public void AForcedUnmountUnderLoadEndsIt()
    {
        using HostProcess host = HostProcess.StartOver("uring", _directory.MountPoint);
        Task<(int ExitCode, string Output)>[] users = StartUsers(
            host, "dd if=\"$1\" of=/dev/null bs=4k count=500 iflag=direct status=none");

        // It ends the session first, and the server may take the mount down before umount comes to that.
        Shell.Run("umount -f -l \"$1\"", host.MountPoint);
        Assert.Equal(0, host.WaitForExit());
        Assert.False(_directory.IsMounted);
        Assert.True(Task.WaitAll(users, Eventually.Patience));
    }

    /// <summary>
    /// Starts users who run a command on the file again and again until it fails, and waits until each has once.
    /// </summary>
    private Task<(int ExitCode, string Output)>[] StartUsers(HostProcess host, string command)
    {
        string[] signs = [.. Enumerable.Range(0, Users).Select(i => _directory.Beside($"user{i}"))];
        Task<(int ExitCode, string Output)>[] users = [.. signs.Select(sign => Task.Run(
            () => Shell.Run($"while {command}; do touch \"$2\"; done", host.FilePath, sign)))];
        Eventually.Holds(() => signs.All(File.Exists), "a user does not come to the end of the file");
        return users;
    }
}
