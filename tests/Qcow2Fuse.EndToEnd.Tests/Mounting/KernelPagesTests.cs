// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>
/// What programs stored into mapped memory, which the kernel holds without a word to the daemon, is part of the disk.
/// </summary>
public sealed class KernelPagesTests : MountTest
{
    private const int PartitionStart = 1 << 20;

    /// <summary>Maps two files, stores, writes and reads as its arguments say, each of them one step.</summary>
    private const string Script = """
        import mmap, os, sys
        files, maps = {}, {}
        def fd(path):
            if path not in files: files[path] = os.open(path, os.O_RDWR)
            return files[path]
        def map(path):
            if path not in maps: maps[path] = mmap.mmap(fd(path), 4 << 20)
            return maps[path]
        for step in sys.argv[1:]:
            what, path, *rest = step.split(':')
            if what == 'store': map(path)[int(rest[0]):int(rest[0]) + 512] = rest[1].encode() * 512
            elif what == 'write': assert os.pwrite(fd(path), rest[1].encode() * 512, int(rest[0])) == 512
            elif what == 'look': map(path)[int(rest[0])]
            elif what == 'sync': os.fsync(fd(path))
            elif what == 'msync': map(path).flush()
            elif what == 'say': print('ready', flush=True)
            elif what == 'wait': sys.stdin.readline()
            elif what == 'data': print(os.lseek(fd(path), int(rest[0]), os.SEEK_DATA), flush=True)
            elif what == 'hole': print(os.lseek(fd(path), int(rest[0]), os.SEEK_HOLE), flush=True)
        """;

    [SkippableFact]
    public void A_sector_written_through_a_partition_outlives_an_old_page_of_the_disk()
    {
        (string disk, string partition) = MountWithPartition();
        Do(
            $"store:{disk}:{PartitionStart}:A", $"write:{partition}:1024:B", $"sync:{partition}", $"sync:{disk}");
        ShouldHold((PartitionStart, 'A'), (PartitionStart + 1024, 'B'));
    }

    [SkippableFact]
    public void A_sector_written_through_the_disk_outlives_an_old_page_of_a_partition()
    {
        (string disk, string partition) = MountWithPartition();
        Do($"store:{partition}:4096:A", $"write:{disk}:{PartitionStart + 4096 + 512}:B", $"sync:{disk}",
            $"sync:{partition}");
        ShouldHold((PartitionStart + 4096, 'A'), (PartitionStart + 4096 + 512, 'B'));
    }

    [SkippableFact]
    public void Old_pages_of_two_files_spare_each_others_sectors()
    {
        (string disk, string partition) = MountWithPartition();
        Do(
            $"look:{disk}:{PartitionStart}", $"look:{partition}:0", $"store:{disk}:{PartitionStart}:A",
            $"store:{partition}:512:B", $"msync:{disk}", $"msync:{partition}", $"store:{partition}:1024:C",
            $"store:{disk}:{PartitionStart + 1536}:D", $"msync:{partition}", $"msync:{disk}");
        ShouldHold(
            (PartitionStart, 'A'), (PartitionStart + 512, 'B'), (PartitionStart + 1024, 'C'),
            (PartitionStart + 1536, 'D'));
    }

    [SkippableFact]
    public void What_was_stored_is_no_hole()
    {
        string raw = Mount(NewImage());
        string said = Do($"store:{raw}:{2 << 20}:A", $"data:{raw}:0", $"hole:{raw}:{2 << 20}");
        Assert.Equal($"{2 << 20}\n{(2 << 20) + 65536}\n", said);
    }

    [SkippableFact]
    public void A_copy_has_what_was_stored()
    {
        string raw = Mount(NewImage());
        using RunningProcess writer = Start($"store:{raw}:{2 << 20}:A", "say::", "wait::");
        Assert.Equal("ready", writer.ReadLine());
        Tool("cp", raw, PathOf("copy"));
        Assert.Equal('A', At(PathOf("copy"), 2 << 20));
        writer.WriteLine("");
    }

    /// <summary>Whoever has a file open is waited for.</summary>
    [SkippableFact]
    [Trait(Speed.Name, Speed.Slow)]
    public void What_was_stored_outlives_a_clean_stop()
    {
        string image = NewImage();
        string raw = Mount(image);
        using RunningProcess writer = Start($"store:{raw}:0:A", $"store:{raw}:{3 << 20}:B", "say::", "wait::");
        Assert.Equal("ready", writer.ReadLine());
        int daemon = Assert.Single(DaemonsOf(Path.GetDirectoryName(raw)!));
        Signal(daemon, "TERM");
        WaitForEnd(daemon);
        writer.WriteLine("");
        QemuTools.Img("convert", "-O", "raw", image, PathOf("flat"));
        Assert.Equal('A', At(PathOf("flat"), 0));
        Assert.Equal('B', At(PathOf("flat"), 3 << 20));
    }

    [SkippableFact]
    public void The_word_for_more_of_it_changes_nothing()
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        ProcessResult mounted = Run("mount", "-o", "writeback", image, mountPoint);
        mounted.ShouldSucceed();
        Assert.Contains("writeback changes nothing", mounted.Error, StringComparison.Ordinal);
        Do($"write:{RawFileOf(image, mountPoint)}:0:A");
        Signal(Assert.Single(DaemonsOf(mountPoint)), "KILL");
    }

    private static string Do(params string[] steps) => Tool("python3", ["-c", Script, .. steps]);

    private static RunningProcess Start(params string[] steps)
    {
        QemuTools.RequireTool("python3");
        return RunningProcess.Start(ProcessRunner.Find("python3")!, ["-c", Script, .. steps]);
    }

    private static char At(string path, long offset)
    {
        using FileStream file = File.OpenRead(path);
        file.Position = offset;
        return (char)file.ReadByte();
    }

    private (string Disk, string Partition) MountWithPartition()
    {
        string raw = Mount(NewImage());
        Tool("sh", "-c", $"printf 'label: dos\\nstart=1MiB\\n' | sfdisk -q {raw}");
        string partition = Path.ChangeExtension(raw, ".p1.raw");
        WaitUntil(() => File.Exists(partition), "there is no partition");
        return (raw, partition);
    }

    /// <summary>The image, once it is closed, has these bytes.</summary>
    private void ShouldHold(params (long Offset, char Value)[] expected)
    {
        Unmount(PathOf("mnt"));
        QemuTools.Img("convert", "-O", "raw", PathOf("disk.qcow2"), PathOf("flat"));
        Assert.Equal(expected, expected.Select(one => (one.Offset, At(PathOf("flat"), one.Offset))));
    }
}
