// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Images that claim to be enormous, in a directory with one that is not: whatever is asked, the daemon
/// lives, stays small and serves the other one.</summary>
public sealed class HostileImageTests : MountTest
{
    private const long ResidentKibibytesMax = 256 << 10;

    [SkippableTheory]
    [InlineData("snapshots")]
    [InlineData("snapshot names")]
    [InlineData("bitmap names")]
    [InlineData("zeroes")]
    [InlineData("in turn")]
    [Trait(Speed.Name, Speed.Slow)]
    public void Whatever_an_image_says_the_daemon_stays_small_and_serves_the_others(string kind)
    {
        string mountPoint = NewMountPoint();
        Directory.CreateDirectory(PathOf("images"));
        NewImage("8M", name: "images/good.qcow2");
        Write(PathOf("images/evil.qcow2"), kind switch
        {
            "snapshots" => NamesImage.WithSnapshots(65536, 5, 6),
            "snapshot names" => NamesImage.WithSnapshots(480, 65535, 65535),
            "bitmap names" => NamesImage.WithBitmaps(65535, 1000),
            "zeroes" => FanImage.Create(21, 1 << 20, static _ => 1),
            _ => FanImage.Create(21, 1 << 20, static i => (ulong)i & 1),
        });
        Run("mount", PathOf("images"), mountPoint).ShouldSucceed();
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Tool("sh", "-c", $$"""
            cd '{{mountPoint}}'
            ls -l . >/dev/null
            cd .qcow2fuse/evil
            head -c 100000000 info | wc -c
            head -c 3000000 map | wc -c
            ls snapshots | wc -l
            stat ../../evil.raw >/dev/null
            head -c 4096 ../../evil.raw | wc -c
            python3 -c 'import os
            fd = os.open("../../evil.raw", os.O_RDONLY)
            try: os.lseek(fd, 0, os.SEEK_DATA)
            except OSError: pass
            os.lseek(fd, 0, os.SEEK_HOLE)'
            true
            """);
        byte[] start = new byte[512];
        using (FileStream good = File.OpenRead(Path.Combine(mountPoint, "good.raw")))
            good.ReadExactly(start);
        Assert.InRange(ResidentKibibytes(daemon), 1, ResidentKibibytesMax);
    }

    [SkippableFact]
    public void What_is_too_long_for_the_daemon_to_say_is_refused_in_one_line()
    {
        Write(PathOf("names.qcow2"), NamesImage.WithSnapshots(480, 65535, 65535));
        string mountPoint = NewMountPoint();
        Mount(PathOf("names.qcow2"), mountPoint);
        ShouldPrint(
            1, "",
            "qcow2fuse: names.qcow2: what there is to say is too long for the daemon that has it mounted\n"
            + "hint: -U looks at the file itself\n",
            "snapshot", "-l", "names.qcow2");
        ProcessResult looked = Run("snapshot", "-l", "-U", "names.qcow2");
        Assert.Equal((0, ""), (looked.ExitCode, looked.Error));
    }

    [SkippableFact]
    public void Long_answers_are_made_one_at_a_time()
    {
        Write(PathOf("names.qcow2"), NamesImage.WithSnapshots(15, 65535, 65535));
        Mount(PathOf("names.qcow2"), NewMountPoint());
        Task<ProcessResult>[] asked =
        [
            .. Enumerable.Range(0, 12).Select(_ => Task.Factory.StartNew(
                () => Run(Eventually.Patience, "snapshot", "-l", "names.qcow2"), TaskCreationOptions.LongRunning)),
        ];
        foreach (Task<ProcessResult> one in asked)
        {
            ProcessResult result = one.GetAwaiter().GetResult();
            Assert.Equal((0, ""), (result.ExitCode, result.Error));
            Assert.InRange(result.Output.Length, 15 * 131_070, int.MaxValue);
        }
    }

    [SkippableFact]
    public void Images_without_room_for_their_tables_are_not_opened_and_the_others_are_served()
    {
        string mountPoint = NewMountPoint();
        Directory.CreateDirectory(PathOf("images"));
        NewImage("8M", name: "images/good.qcow2");
        Write(PathOf("images/large.qcow2"), FanImage.Create(16, 1 << 20, static _ => 1));
        Run("mount", "-o", "metadata_memory=4M", PathOf("images"), mountPoint).ShouldSucceed();
        IOException refused = Assert.Throws<IOException>(
            () => File.OpenRead(Path.Combine(mountPoint, "large.raw")).Dispose());
        Assert.Contains("memory", refused.Message, StringComparison.OrdinalIgnoreCase);
        using FileStream good = File.OpenRead(Path.Combine(mountPoint, "good.raw"));
        good.ReadExactly(new byte[512]);
    }

    private static long ResidentKibibytes(int process)
    {
        string line = File.ReadLines(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}/status"))
            .First(static line => line.StartsWith("VmHWM:", StringComparison.Ordinal));
        return long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[^2], CultureInfo.InvariantCulture);
    }

    private static void Write(string path, MemoryDevice image)
    {
        using FileStream file = File.Create(path);
        byte[] piece = new byte[1 << 20];
        for (long at = 0; at < image.Length; at += piece.Length)
        {
            int length = (int)Math.Min(piece.Length, image.Length - at);
            image.Read(at, piece.AsSpan(0, length));
            file.Write(piece, 0, length);
        }

        image.Dispose();
    }
}
