// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Restart;

/// <summary>The daemon leaves its mount to the next one, which nobody notices.</summary>
public sealed class PlannedRestartTests : RestartTest
{
    /// <summary>ENOTCONN: the session has ended.</summary>
    private const int NotConnected = 107;

    [SkippableFact]
    public void Writers_go_on_through_restarts()
    {
        QemuTools.RequireTool("fio");
        Begin();
        using Process writer = Launch(
            "fio", "--name=restart", "--filename=" + Raw, "--rw=randwrite", "--bs=4k", "--size=32M", "--ioengine=psync",
            "--direct=1", "--rate_iops=1500", "--fsync=32", "--verify=crc32c", "--verify_fatal=1", "--minimal");
        Task<string> output = writer.StandardOutput.ReadToEndAsync();
        Task<string> error = writer.StandardError.ReadToEndAsync();
        int restarts = 0;
        for (; restarts < 3; restarts++)
        {
            DateTime before = File.GetLastWriteTimeUtc(Image);
            WaitUntil(() => File.GetLastWriteTimeUtc(Image) > before || writer.HasExited, "fio does not write");
            if (writer.HasExited)
                break;
            HandOver();
        }

        Assert.NotEqual(0, restarts);
        Assert.True(writer.WaitForExit(Eventually.Patience), "fio does not end");
        Assert.True(writer.ExitCode == 0, $"{output.Result}\n{error.Result}\n{Manager.Log}");
        Stop();
    }

    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void Pages_that_the_kernel_holds_never_show_what_is_out_of_date(bool crash)
    {
        const int Start = 1 << 20;
        Begin();
        Tool("sh", "-c", $"printf 'label: dos\\nstart=1MiB\\n' | sfdisk -q {Raw}");
        string partition = Path.ChangeExtension(Raw, ".p1.raw");
        WaitUntil(() => File.Exists(partition), "there is no partition");
        using (OpenedFile disk = new(Raw))
        using (OpenedFile part = new(partition))
        {
            part.Write(0, 1);
            part.Sync();
            disk.ShouldRead(Start, 1);
            if (crash)
                Crash();
            else
                HandOver();
            part.Write(0, 2);
            part.Sync();
            WaitUntil(() => disk.Holds(Start, 2), "the disk shows old pages");
        }

        Stop();
    }

    [SkippableTheory]
    [InlineData("ramfs")]
    [InlineData("tmpfs")]
    public void An_image_is_taken_over_with_and_without_direct_io(string fileSystem)
    {
        RequireMounting();
        string place = PathOf("place");
        Directory.CreateDirectory(place);
        Skip.If(TryTool("mount", "-t", fileSystem, "none", place).ExitCode != 0, $"there is no {fileSystem}");
        try
        {
            Begin(NewImage("16M", name: "place/disk.qcow2"), ("QCOW2FUSE_PREFER_DIRECT", "on"));
            using (OpenedFile file = new(Raw))
            {
                file.Write(0, 7);
                HandOver();
                file.ShouldRead(0, 7);
                file.Write(4096, 8);
                Crash();
            }

            Stop();
        }
        finally
        {
            Tool("umount", "-l", place);
        }
    }

    [SkippableFact]
    public void Whatever_was_open_stays_open()
    {
        Begin();
        string details = Path.Combine(MountPoint, ".qcow2fuse/disk");
        using OpenedFile file = new(Raw);
        file.Write(0, 7);
        using OpenedFile layer = new(details + "/layers/0.raw", readOnly: true);
        using FileStream info = File.OpenRead(details + "/info");
        byte[] before = new byte[64];
        info.ReadExactly(before);
        using Process shell = Launch(
            "bash", "-c", $"cd '{details}/layers' && until [ -e '{PathOf("go")}' ]; do sleep 0.1; done; ls");
        string inodes = Tool("stat", "-c", "%i", Raw, details + "/layers/0.raw");

        HandOver();
        HandOver();
        file.ShouldRead(0, 7);
        file.Write(4096, 8);
        layer.ShouldRead(0, 7);
        layer.ShouldRead(4096, 8);
        info.Position = 0;
        byte[] after = new byte[64];
        info.ReadExactly(after);
        Assert.Equal(before, after);
        Assert.Equal(inodes, Tool("stat", "-c", "%i", Raw, details + "/layers/0.raw"));
        File.WriteAllText(PathOf("go"), "");
        Assert.Equal("0.raw\n", shell.StandardOutput.ReadToEnd());
        file.Sync();
        info.Dispose();
        layer.Dispose();
        file.Dispose();
        Stop();
    }

    [SkippableFact]
    public void An_end_is_an_end()
    {
        Begin();
        string[] names = Manager.Names;
        Assert.Contains("qcow2fuse-state", names);
        Assert.Contains("qcow2fuse-session", names);
        Assert.Contains("qcow2fuse-file-0", names);
        Skip.If(
            Environment.OSVersion.Version < new Version(6, 9), "workers are kept where requests are sent again only");
        Assert.Equal(16, names.Count(static name => name == "qcow2fuse-worker"));
        HandOver();
        Assert.Equal(names, Manager.Names);
        Stop();
        WaitUntil(() => Manager.Names.Length == 0, "the manager is not told to forget");

        // The same again, from the start.
        Start();
        using (OpenedFile file = new(Raw))
            file.ShouldRead(0, 0);
        Stop();
    }

    [SkippableFact]
    public void Other_settings_make_another_mount()
    {
        Begin();
        using OpenedFile file = new(Raw);
        Assert.Equal(FakeManager.HandedOver, Manager.End("USR2"));
        Start("--read-only");
        Manager.ShouldLog("the settings have changed");
        file.ShouldFail(NotConnected);
        Assert.True(File.Exists(Raw));
        Assert.Equal(-Errno.EROFS, LinuxFile.Open(Raw, OpenFlags.ReadWrite | OpenFlags.CloseOnExec));
        Stop();
    }

    [SkippableFact]
    public void A_mount_that_nobody_can_keep_says_so_and_works()
    {
        Prepare(NewImage(), ("FDSTORE", "0"));
        Start();
        Manager.ShouldLog(
            "qcow2fuse: restartable: the mount ends with this process: "
            + "the service manager keeps nothing for this unit (hint: FileDescriptorStoreMax=512)");
        Assert.Empty(Manager.Names);
        using (OpenedFile file = new(Raw))
        {
            file.Write(0, 1);
            Signal(Manager.ProcessId, "USR2");
            Manager.ShouldLog("cannot be handed over");
            file.ShouldRead(0, 1);
        }

        // The next start takes the dead mount over.
        Assert.Equal(137, Manager.End("KILL"));
        Assert.True(IsMounted(MountPoint));
        Start();
        using (OpenedFile file = new(Raw))
            file.Write(0, 2);
        Stop();
    }

    [SkippableTheory]
    [InlineData("FDSTORE", "5", "keeps only 5 descriptors (hint: FileDescriptorStoreMax=19)")]
    [InlineData("QCOW2FUSE_IDLE_EXIT", "on", "idle_exit needs to know who has files open")]
    public void What_speaks_against_it_is_said(string name, string value, string reason)
    {
        Prepare(NewImage(), (name, value));
        Start();
        Manager.ShouldLog(reason);
        Assert.Empty(Manager.Names);
        Stop();
    }

    [SkippableFact]
    public void Without_a_service_manager_it_is_said_too()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        ProcessResult result = Run("mount", "-o", "restartable", image, mountPoint);
        Assert.Equal(0, result.ExitCode);
        Assert.Contains("there is no service manager to keep it (hint: ", result.Error);
        Unmount(mountPoint);
    }
}
