// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.IO.Pipes;
using Mono.Unix.Native;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>
/// A mount point of autofs, as systemd makes it for x-systemd.automount. The kernel asks the automounter, here this
/// process, for a mount when somebody comes by, and lets only the automounter's process group through until then.
/// </summary>
public sealed class AutomountTests : MountTest
{
    /// <summary>struct autofs_v5_packet.</summary>
    private const int PacketBytes = 304;

    [SkippableTheory]
    [InlineData("")]
    [InlineData("--foreground")]
    public void What_is_mounted_on_demand_answers(string option)
    {
        RequireMounting();
        QemuTools.Require(
            File.ReadLines("/proc/filesystems").Any(static line => line.EndsWith("\tautofs", StringComparison.Ordinal)),
            "the kernel has no autofs");
        QemuTools.Require(FindProgram() is not null, "out/qcow2fuse is not built");
        string image = NewImage();
        string mountPoint = NewMountPoint();
        using AnonymousPipeServerStream pipe = new(PipeDirection.In);
        string data = string.Create(
            CultureInfo.InvariantCulture,
            $"fd={pipe.GetClientHandleAsString()},pgrp={Syscall.getpgrp()},minproto=5,maxproto=5,direct");
        Assert.Equal(0, MountCalls.Mount("test", mountPoint, "autofs", 0, data));
        pipe.DisposeLocalCopyOfClientHandle();
        try
        {
            string raw = RawFileOf(image, mountPoint);
            using Process passer = Process.Start("setsid", ["head", "-c", "512", raw]);
            pipe.ReadExactly(new byte[PacketBytes]);

            // In this process's group, as mount(8) is in systemd's.
            using Process mounting = Process.Start(
                FindProgram()!, ["mount", .. option.Length > 0 ? (string[])[option] : [], image, mountPoint]);
            if (option.Length == 0)
            {
                Assert.True(mounting.WaitForExit(Eventually.Patience), "it waits for itself");
                Assert.Equal(0, mounting.ExitCode);
            }

            // This process is let through as well.
            WaitUntil(() => File.Exists(raw), $"{raw} does not appear");
            int daemon = Assert.Single(DaemonsOf(mountPoint));
            Assert.Equal(option.Length == 0, Syscall.getpgrp() != GroupOf(daemon));

            // This automounter never says that it is done, so that whoever is not in its group waits still.
            passer.Kill();
            Assert.True(passer.WaitForExit(Eventually.Patience));
            Signal(daemon, "TERM");
            WaitForEnd(daemon);
        }
        finally
        {
            while (MountCalls.Unmount(mountPoint, detach: true) == 0)
            {
                // The mount of the image, and the one of autofs below it.
            }
        }
    }

    /// <summary>The fifth field of /proc/PID/stat, behind the name in parentheses, state and parent.</summary>
    private static int GroupOf(int process)
    {
        string status = File.ReadAllText($"/proc/{process}/stat");
        return int.Parse(
            status[(status.LastIndexOf(')') + 2)..].Split(' ')[2], CultureInfo.InvariantCulture);
    }
}
