// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>
/// What <see cref="MemoryLimitTests"/> asks, in a virtual machine whose root has every capability and whose kernel has
/// both kinds of control groups: the daemon, a loop device, an ext4 on it and three writers in a group with too little
/// memory. In <c>make test-boot</c> alone.
/// </summary>
public sealed partial class MemoryBootTests(ITestOutputHelper log) : CommandTest
{
    private const int GuestSeconds = 240;

    // PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, which PR_SET_IO_FLUSHER sets.
    private const long FlusherFlags = 0x180000;

    // What the program loads by itself, beside what ldd shows.
    private static readonly string[] LoadedLibraries =
        ["libz.so.1", "libdeflate.so.0", "libzstd.so.1", "libcrypto.so.3", "libssl.so.3"];

    /// <summary>
    /// The limit is reached again and again, and nobody hangs or is killed; what was written is read back in the guest,
    /// and from the image after it has gone.
    /// </summary>
    /// <remarks>
    /// Not with <c>cache=writeback</c> inside of a group of cgroup v1, which does not hold writers back: it fills with
    /// pages that only the daemon can write, and the daemon finds none for the cache of the image file.
    /// </remarks>
    [SkippableTheory]
    [InlineData("attach", "inside", 2, "128M", 6)]
    [InlineData("cache=writeback", "inside", 2, "128M", 6)]
    [InlineData("attach", "inside", 1, "128M", 6)]
    [InlineData("attach", "outside", 2, "48M", 3)]
    [InlineData("attach", "outside", 1, "48M", 3)]
    public void Daemon_loop_device_and_writers_share_too_little_memory(
        string mode, string place, int version, string limit, int pieces)
    {
        GuestMachine machine = GuestMachine.Require(PathOf("machine"), mebibytes: 1024, processors: 2);
        string disk = MakeDisk();
        Stopwatch ran = Stopwatch.StartNew();
        string console = machine.Run(
            MemoryGuest.Script, $"file={disk},cache=writeback", "mode=" + mode, "place=" + place,
            $"version={version}", "limit=" + limit, $"pieces={pieces}", $"patience={GuestSeconds}");
        log.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"{ran.Elapsed.TotalSeconds:F1} s in the guest\n{console}"));

        Assert.InRange(GroupValue(console, "max"), 1, long.MaxValue);
        Assert.Equal(0, GroupValue(console, "oom_kill"));
        ShouldNotWaitForItself(console);
        ShouldHold(disk);
    }

    /// <summary>What the guest wrote, by tools that know nothing of us.</summary>
    private void ShouldHold(string disk)
    {
        Tool("e2fsck", "-fn", disk);
        string image = PathOf("back.qcow2");
        Tool("debugfs", "-R", $"dump /disk.qcow2 {image}", disk);
        QemuTools.ShouldPassCheck(image);
        string inner = PathOf("back.raw");
        QemuTools.Img("convert", "-f", "qcow2", "-O", "raw", image, inner);
        Tool("e2fsck", "-fn", inner);
        string back = PathOf("back");
        Directory.CreateDirectory(back);
        Tool("debugfs", "-R", $"rdump / {back}", inner);
        Tool("sh", "-ec", "cd \"$1\"; sha256sum --quiet -c sums; md5sum --quiet -c guestsums", "sh", back);
    }

    /// <summary>
    /// All threads find memory without waiting for the mount, those of the runtime too: one of them that waits with a
    /// lock held, such as that of the address space, stops the workers.
    /// </summary>
    private static void ShouldNotWaitForItself(string console)
    {
        MatchCollection threads = ThreadLine().Matches(console);
        Assert.Contains(threads, static thread => thread.Groups["name"].Value == "fuse");
        foreach (Match thread in threads)
        {
            long flags = long.Parse(thread.Groups["flags"].Value, CultureInfo.InvariantCulture);
            Assert.True(
                (flags & FlusherFlags) == FlusherFlags,
                $"thread {thread.Groups["name"].Value} waits for the file system it serves (flags {flags:x})");
        }
    }

    private static long GroupValue(string console, string key)
    {
        Match line = Regex.Match(console, $@"^GROUP {key} (?<value>\d+)", RegexOptions.Multiline);
        Assert.True(line.Success, console);
        return long.Parse(line.Groups["value"].Value, CultureInfo.InvariantCulture);
    }

    /// <summary>
    /// A disk with an ext4, which holds the program, all libraries it needs, and an image with an ext4 in it.
    /// </summary>
    private string MakeDisk()
    {
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        string files = PathOf("files");
        Directory.CreateDirectory(files);
        for (int i = 0; i < 20; i++)
            File.WriteAllBytes(Path.Combine(files, $"host{i}"), Stamp.Bytes(0, 100_000 + (i * 1000), (ulong)i));
        Tool("sh", "-ec", "cd \"$1\"; sha256sum host* > sums", "sh", files);
        Tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", files, PathOf("inner"), "600M");

        string tree = PathOf("tree");
        Directory.CreateDirectory(tree);
        File.Copy(program!, Path.Combine(tree, "qcow2fuse"));
        QemuTools.Img(
            "convert", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on", PathOf("inner"),
            Path.Combine(tree, "disk.qcow2"));
        IEnumerable<string> known = Tool("ldconfig", "-p").Split('\n')
            .Where(static line => LoadedLibraries.Any(name => line.Contains($"\t{name} (", StringComparison.Ordinal)));
        foreach (Match library in LibraryPath().Matches(Tool("ldd", program!) + string.Join('\n', known)))
        {
            string copy = tree + library.Value;
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(library.Value, copy, overwrite: true);
        }

        foreach (string name in (string[])["lib", "lib64", "usr"])
            Directory.CreateDirectory(Path.Combine(tree, name));
        string disk = PathOf("disk");
        Tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk, "1G");
        return disk;
    }

    private static string Tool(string program, params string[] arguments)
    {
        QemuTools.RequireTool(program);
        return ProcessRunner.Run(ProcessRunner.Find(program)!, arguments).ShouldSucceed().Output;
    }

    [GeneratedRegex(@"(?<=[ \t])/\S+")]
    private static partial Regex LibraryPath();

    [GeneratedRegex(@"^THREAD (?<flags>\d+) (?<name>.+?)\r?$", RegexOptions.Multiline)]
    private static partial Regex ThreadLine();
}
