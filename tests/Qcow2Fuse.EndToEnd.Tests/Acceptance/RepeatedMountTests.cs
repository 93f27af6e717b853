// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.EndToEnd.Tests.Stacks;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>
/// Mounting again and again, every third time after a killed daemon: nothing is lost and nothing is left.
/// QCOW2FUSE_MOUNT_ROUNDS says how often.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class RepeatedMountTests : StackTest
{
    private const int RoundsDefault = 50;
    private const int Block = 65536;

    private static int Rounds =>
        Environment.GetEnvironmentVariable("QCOW2FUSE_MOUNT_ROUNDS") is { Length: > 0 } text
            ? int.Parse(text, CultureInfo.InvariantCulture)
            : RoundsDefault;

    [SkippableFact]
    public void Mounts_in_a_row_leave_nothing_behind()
    {
        RequireLoopDevices();
        SetEnvironment("DOTNET_EnableDiagnostics", null);
        string image = NewImage();
        string mountPoint = NewMountPoint();
        (int Mounts, int Loops) before = OfTheMachine();

        // Another program may have left something under a number that comes again.
        string[] found = Directory.GetFileSystemEntries(Path.GetTempPath());
        List<(int Threads, int Descriptors)> sizes = [];
        for (int round = 0; round < Rounds; round++)
        {
            string raw = Mount(image, mountPoint);
            int daemon = Assert.Single(DaemonsOf(mountPoint));
            long offset = round % 1000 * (long)Block;
            using (FileStream file = new(raw, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0))
            {
                ShouldHold(file, round - 1);
                file.Position = offset;
                file.Write(Stamp.Bytes(offset, Block, (ulong)round));
                file.Flush(flushToDisk: true);
            }

            sizes.Add(OfProcess(daemon));
            if (round % 10 == 5)
                UseLoop(raw);
            if (round % 3 == 1)
            {
                Signal(daemon, "KILL");
                WaitForEnd(daemon);
                Assert.Empty(Directory.GetFileSystemEntries(Path.GetTempPath(), $"*-{daemon}-*").Except(found));
                continue;
            }

            Run("umount", mountPoint).ShouldSucceed();
            WaitForEnd(daemon);
            Assert.Equal(before, OfTheMachine());
        }

        if (IsMounted(mountPoint))
            Tool("umount", "-l", mountPoint);
        Assert.Equal(before, OfTheMachine());
        Assert.Empty(DaemonsOf(mountPoint));
        Assert.InRange(sizes.Max(static size => size.Threads), 1, sizes[0].Threads + 4);
        Assert.InRange(sizes.Max(static size => size.Descriptors), 1, sizes[0].Descriptors + 4);
        QemuTools.ShouldPassCheck(image, allowLeaks: true);
        byte[] disk = QemuTools.ConvertToRaw(image);
        for (int round = Math.Max(0, Rounds - 1000); round < Rounds; round++)
        {
            int offset = round % 1000 * Block;
            Assert.True(
                disk.AsSpan(offset, Block).SequenceEqual(Stamp.Bytes(offset, Block, (ulong)round)),
                $"what round {round} wrote is lost");
        }
    }

    [SkippableFact]
    public void A_daemon_in_use_grows_by_nothing()
    {
        RequireLoopDevices();
        string mountPoint = NewMountPoint();
        string raw = Mount(NewImage(), mountPoint);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        UseAll();
        (int Threads, int Descriptors) before = OfProcess(daemon);
        for (int i = 0; i < 10; i++)
            UseAll();
        (int Threads, int Descriptors) after = OfProcess(daemon);
        Assert.InRange(after.Threads, 1, before.Threads + 1);
        Assert.InRange(after.Descriptors, 1, before.Descriptors + 1);

        void UseAll()
        {
            UseLoop(raw);
            Tool("ls", "-la", mountPoint, Path.Combine(mountPoint, ".qcow2fuse", "disk"));
            Tool("sh", "-ec", "for i in 1 2 3 4 5 6 7 8; do head -c 4096 \"$1\" | wc -c; done", "sh", raw);
            Tool("getfattr", "-d", raw);
        }
    }

    private static void UseLoop(string raw)
    {
        string loop = Tool("losetup", "--find", "--show", raw).Trim();
        try
        {
            Tool("dd", "if=" + loop, "of=/dev/null", "bs=64k", "count=4", "status=none");
        }
        finally
        {
            Tool("losetup", "--detach", loop);
        }
    }

    private static void ShouldHold(FileStream file, int round)
    {
        if (round < 0)
            return;
        long offset = round % 1000 * (long)Block;
        byte[] seen = new byte[Block];
        file.Position = offset;
        file.ReadExactly(seen);
        Assert.True(seen.AsSpan().SequenceEqual(Stamp.Bytes(offset, Block, (ulong)round)), $"round {round} is lost");
    }

    /// <summary>Mounts of our type and loop devices on files of tests; others' tests may run beside this one.</summary>
    private (int Mounts, int Loops) OfTheMachine() => (
        File.ReadLines("/proc/self/mountinfo").Count(line => line.Contains(WorkDirectory, StringComparison.Ordinal)),
        LoopsIn(WorkDirectory).Count);

    private static (int Threads, int Descriptors) OfProcess(int process) => (
        Directory.GetDirectories($"/proc/{process}/task").Length, Directory.GetFiles($"/proc/{process}/fd").Length);
}
