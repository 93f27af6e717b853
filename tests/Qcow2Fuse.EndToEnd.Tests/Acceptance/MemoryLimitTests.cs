// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.EndToEnd.Tests.Stacks;
using Qcow2Fuse.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>
/// The daemon and those who write through it share too little memory. A page can be freed only when the daemon has
/// written it, and the daemon must not need memory that is freed only then.
/// </summary>
public sealed class MemoryLimitTests(ITestOutputHelper log) : StackTest
{
    private const long Mebibyte = 1 << 20;
    private const long GroupBytes = 160 * Mebibyte;
    private const long DaemonBytesMax = 120 * Mebibyte;
    private const int WrittenMebibytes = 600;
    private const int CapabilityOfResources = 24;

    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    /// <summary>A daemon alone in a group of 64 MiB, as in a small container; its writers are outside.</summary>
    [SkippableTheory]
    [InlineData("writeback")]
    [InlineData("none")]
    public void A_daemon_has_enough_with_64_MiB(string cache)
    {
        string image = NewImage("256M");
        string mountPoint = NewMountPoint();
        using MemoryGroup group = MemoryGroup.Create(64 * Mebibyte);
        try
        {
            InGroup(group, "exec \"$1\" mount -o \"$2\" \"$3\" \"$4\"",
                FindProgram()!, "cache=" + cache, image, mountPoint);
            string raw = RawFileOf(image, mountPoint);
            Tool("dd", "if=/dev/urandom", $"of={raw}", "bs=1M", "count=200", "conv=notrunc,fsync", "status=none");
            Tool("dd", $"if={raw}", "of=/dev/null", "bs=1M", "iflag=direct", "status=none");
            Run("snapshot", "-c", "one", image).ShouldSucceed();
            Run("check", image).ShouldSucceed();
            Assert.Single(DaemonsOf(mountPoint));
            Assert.Equal(0, group.Kills);
        }
        finally
        {
            Unmount(mountPoint);
        }

        QemuTools.ShouldPassCheck(image);
    }

    /// <summary>
    /// A daemon inside of the group has to find memory for its own work, and must not wait for pages that only it can
    /// write. It need not if the kernel knows it as one that frees memory (PR_SET_IO_FLUSHER, which needs
    /// CAP_SYS_RESOURCE). Where that cannot be had, <see cref="MemoryBootTests"/> has it.
    /// </summary>
    [SkippableTheory]
    [InlineData("writeback", false)]
    [InlineData("writeback", true)]
    [InlineData("none", true)]
    public void Writing_far_more_than_there_is_memory_ends(string cache, bool isInside)
    {
        RequireLoopDevices();
        QemuTools.RequireTool("mkfs.ext4");
        string image = NewImage("1G", "extended_l2=on");
        string mountPoint = NewMountPoint();
        string inner = PathOf("inner");
        Directory.CreateDirectory(inner);
        using MemoryGroup group = MemoryGroup.Create(GroupBytes);
        Skip.If(
            isInside && !HasCapability(CapabilityOfResources),
            "root without CAP_SYS_RESOURCE: the kernel may let the daemon wait for itself; see make test-boot");
        Skip.If(
            isInside && !group.IsVersion2,
            "cgroup v1 lets the group fill with pages that only the daemon can write, and it finds none for its own");
        try
        {
            if (isInside)
            {
                InGroup(group, "exec \"$1\" mount -o \"$2\" \"$3\" \"$4\"",
                    FindProgram()!, "cache=" + cache, image, mountPoint);
            }
            else
            {
                Mount(image, mountPoint, "-o", "cache=" + cache);
            }

            int daemon = Assert.Single(DaemonsOf(mountPoint));
            string raw = RawFileOf(image, mountPoint);
            InGroup(group,
                """
                mkfs.ext4 -q -F "$1"
                mount -o loop "$1" "$2"
                for i in 1 2 3; do
                    dd if=/dev/zero of="$2/file$i" bs=1M count=$(($3 / 3)) conv=fsync status=none &
                done
                wait
                """,
                raw, inner, WrittenMebibytes.ToString(CultureInfo.InvariantCulture));
            log.WriteLine($"daemon at most {PeakOf(daemon) >> 20} MiB, group {group.Peak >> 20} MiB");
            Assert.InRange(PeakOf(daemon), 1, DaemonBytesMax);
            Assert.Equal(0, group.Kills);
            foreach (int i in (int[])[1, 2, 3])
                Assert.Equal(WrittenMebibytes / 3 * Mebibyte, new FileInfo(Path.Combine(inner, $"file{i}")).Length);
        }
        catch (TimeoutException)
        {
            // Without this everybody who looks at these processes would hang, too.
            Abort(mountPoint);
            throw;
        }
        finally
        {
            if (File.ReadAllText("/proc/self/mounts").Contains(inner, StringComparison.Ordinal)
                && TryTool("umount", inner).ExitCode != 0)
            {
                _ = TryTool("umount", "-l", inner);
            }

            IReadOnlyList<int> daemons = DaemonsOf(mountPoint);
            if (IsMounted(mountPoint))
                _ = TryTool("umount", "-l", mountPoint);
            foreach (int daemon in daemons)
                WaitForEnd(daemon);
        }

        QemuTools.ShouldPassCheck(image);
    }

    /// <summary>Buffers belong to the workers, not to the requests: many readers at once make the daemon no larger.
    /// </summary>
    [SkippableFact]
    public void Many_large_requests_at_once_leave_the_daemon_small()
    {
        QemuTools.RequireTool("fio");
        string image = NewImage("512M");
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Tool(
            "fio", "--filename=" + raw, "--direct=1", "--allow_file_create=0", "--name=job", "--rw=randrw", "--bs=1M",
            "--size=256M", "--io_size=16M", "--numjobs=8", "--ioengine=libaio", "--iodepth=32", "--group_reporting");
        long resident = PeakOf(daemon);
        log.WriteLine($"daemon at most {resident >> 20} MiB");
        Assert.InRange(resident, 1, DaemonBytesMax);
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
    }

    /// <summary>Most memory a process ever had, in bytes.</summary>
    private static long PeakOf(int process)
    {
        string line = File.ReadLines($"/proc/{process}/status")
            .First(static l => l.StartsWith("VmHWM:", StringComparison.Ordinal));
        return long.Parse(
            line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) * 1024;
    }

    private static bool HasCapability(int number)
    {
        string line = File.ReadLines("/proc/self/status")
            .First(static l => l.StartsWith("CapEff:", StringComparison.Ordinal));
        ulong set = ulong.Parse(
            line.AsSpan("CapEff:".Length).Trim(), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
        return (set >> number & 1) != 0;
    }

    /// <summary>Ends a mount by its control file, whatever its daemon does: all its users get errors.</summary>
    private void Abort(string mountPoint)
    {
        string device = File.ReadLines("/proc/self/mountinfo").Select(static line => line.Split(' '))
            .First(fields => fields[4] == mountPoint)[2];
        string control = PathOf("control");
        Directory.CreateDirectory(control);
        Tool("mount", "-t", "fusectl", "none", control);
        try
        {
            File.WriteAllText(Path.Combine(control, device.Split(':')[1], "abort"), "1");
        }
        finally
        {
            Tool("umount", control);
        }
    }

    private static void InGroup(MemoryGroup group, string script, params string[] arguments) =>
        ProcessRunner.Run(
            "sh",
            ["-ec", "echo $$ > \"$0\"; PATH=$PATH:/usr/sbin:/sbin; " + script, group.Processes, .. arguments],
            timeout: Patience).ShouldSucceed();
}
