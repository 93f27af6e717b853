// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>A test that mounts images. Whatever it mounted is gone when it ends, also where it failed.</summary>
public abstract class MountTest : CommandTest
{
    private readonly List<string> _mountPoints = [];

    /// <summary>Skips the test where nothing can be mounted; fails it in CI.</summary>
    protected static void RequireMounting()
    {
        QemuTools.Require(File.Exists("/dev/fuse"), "there is no /dev/fuse");
        QemuTools.Require(Environment.IsPrivilegedProcess, "only root can mount here");
    }

    /// <summary>Makes a mount point in the directory of this test; it is unmounted when the test ends.</summary>
    protected string NewMountPoint(string name = "mnt")
    {
        RequireMounting();
        string path = PathOf(name);
        Directory.CreateDirectory(path);
        _mountPoints.Add(path);
        return path;
    }

    /// <summary>Makes an image with qemu-img, with options as for its <c>-o</c>.</summary>
    protected string NewImage(string size = "64M", string options = "compat=1.1", string name = "disk.qcow2")
    {
        QemuTools.RequireTool("qemu-img");
        string path = PathOf(name);
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, path, size);
        return path;
    }

    /// <summary>Mounts an image in the background, which must succeed.</summary>
    /// <returns>The path of the raw file.</returns>
    protected string Mount(string image, string mountPoint, params string[] arguments)
    {
        Run(["mount", .. arguments, image, mountPoint]).ShouldSucceed();
        return RawFileOf(image, mountPoint);
    }

    /// <summary>Mounts an image with requests over io_uring; skips the test where the kernel's switch cannot be set.
    /// </summary>
    /// <param name="options">Mount options, transport=uring among them.</param>
    protected string MountOverUring(string image, string mountPoint, string options)
    {
        UringSwitch.Require();
        using UringSwitch held = UringSwitch.Hold(on: true);
        string raw = Mount(image, mountPoint, "-o", options);
        Assert.NotEqual(0, RingsOf(Assert.Single(DaemonsOf(mountPoint))));
        return raw;
    }

    /// <summary>How many rings of io_uring a process has.</summary>
    protected static int RingsOf(int process) =>
        Directory.GetFiles(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}/fd"))
            .Count(static path => new FileInfo(path).LinkTarget == "anon_inode:[io_uring]");

    /// <summary>Makes a mount point and mounts an image there.</summary>
    protected string Mount(string image) => Mount(image, NewMountPoint());

    /// <summary>Unmounts with umount(8), and waits until the daemon has closed the image.</summary>
    protected static void Unmount(string mountPoint)
    {
        IReadOnlyList<int> daemons = DaemonsOf(mountPoint);
        Umount(mountPoint);
        foreach (int daemon in daemons)
            WaitForEnd(daemon);
    }

    /// <summary>
    /// Runs umount(8) until the mount is not busy any more. Whoever looks what processes have open, as a test beside
    /// this one does, holds a file for a moment after its last user has gone.
    /// </summary>
    protected static void Umount(string mountPoint)
    {
        ProcessResult result = TryTool("umount", mountPoint);
        WaitUntil(
            () => result.ExitCode == 0 || !result.Error.Contains("busy", StringComparison.Ordinal)
                || (result = TryTool("umount", mountPoint)).ExitCode == 0,
            $"{mountPoint}: stays busy");
        result.ShouldSucceed();
    }

    /// <summary>Where an image <c>NAME.qcow2</c> appears.</summary>
    protected static string RawFileOf(string image, string mountPoint) =>
        Path.Combine(mountPoint, Path.GetFileNameWithoutExtension(image) + ".raw");

    /// <summary>Runs a tool that must succeed, and returns its standard output. Skips the test where it is missing.
    /// </summary>
    protected static string Tool(string program, params string[] arguments) =>
        TryTool(program, arguments).ShouldSucceed().Output;

    /// <summary>Runs a tool whatever comes of it. Skips the test where it is missing.</summary>
    protected static ProcessResult TryTool(string program, params string[] arguments)
    {
        QemuTools.RequireTool(program);
        return ProcessRunner.Run(ProcessRunner.Find(program)!, arguments, timeout: TimeSpan.FromMinutes(5));
    }

    /// <summary>The process ids of the programs that serve a mount point: those that name it on their command line.
    /// </summary>
    protected static IReadOnlyList<int> DaemonsOf(string mountPoint)
    {
        List<int> found = [];
        foreach (string directory in Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(directory), CultureInfo.InvariantCulture, out int id)
                && CommandLineOf(id).ToArray() is [var program, .. var rest]
                && program.EndsWith("qcow2fuse", StringComparison.Ordinal)
                && rest.Contains(mountPoint, StringComparer.Ordinal))
            {
                found.Add(id);
            }
        }

        return found;
    }

    /// <summary>Whether a file system of ours is mounted there.</summary>
    protected static bool IsMounted(string mountPoint) =>
        File.ReadLines("/proc/self/mountinfo").Any(line =>
            line.Split(' ')[4] == mountPoint && line.Contains(" fuse.qcow2fuse ", StringComparison.Ordinal));

    /// <summary>Sends a signal (<c>TERM</c>) to a process.</summary>
    protected static void Signal(int process, string signal) =>
        Tool("kill", "-" + signal, process.ToString(CultureInfo.InvariantCulture));

    /// <summary>Waits until a process that is not our child has ended.</summary>
    protected static void WaitForEnd(int process) =>
        WaitUntil(() => HasEnded(process), $"process {process} does not end");

    /// <summary>
    /// Whether a process is gone, or waits for its parent to notice. Its memory goes first; files and their locks go
    /// with the last of its threads.
    /// </summary>
    private static bool HasEnded(int process)
    {
        try
        {
            string status = File.ReadAllText($"/proc/{process}/stat");
            bool isZombie = status[(status.LastIndexOf(')') + 2)..].StartsWith('Z');
            return isZombie && Directory.GetDirectories($"/proc/{process}/task").Length <= 1;
        }
        catch (IOException)
        {
            return true;
        }
    }

    /// <summary>Waits until a condition holds.</summary>
    protected static void WaitUntil(Func<bool> condition, string complaint) =>
        Eventually.Holds(condition, complaint);

    /// <summary>
    /// Runs <paramref name="begin"/> and waits until the image file has been written since: what it started is in
    /// work.
    /// </summary>
    protected static T BeginWriting<T>(string image, Func<T> begin)
    {
        DateTime before = File.GetLastWriteTimeUtc(image);
        T begun = begin();
        WaitUntil(() => File.GetLastWriteTimeUtc(image) > before, $"nobody writes {image}");
        return begun;
    }

    /// <summary>How many processes of a program have a file open. Links are read and not followed: a file may be one of
    /// ours. What others have open is not looked at, which takes seconds where there are many.</summary>
    protected static int CountHolders(string program, string file) => Directory.EnumerateDirectories("/proc")
        .Where(directory => Path.GetFileName(directory).All(char.IsAsciiDigit) && NameOf(directory) == program)
        .Count(directory => LinksOf(directory + "/fd").Contains(file, StringComparer.Ordinal));

    private static string? NameOf(string process)
    {
        try
        {
            return File.ReadAllText(process + "/comm").TrimEnd('\n');
        }
        catch (IOException)
        {
            // It has ended since.
            return null;
        }
    }

    private static IEnumerable<string> LinksOf(string directory)
    {
        try
        {
            return [.. Directory.GetFiles(directory).Select(static link => new FileInfo(link).LinkTarget ?? "")];
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // It has ended since.
            return [];
        }
    }

    /// <summary>Stops a process as SIGSTOP does, and returns when it has stopped.</summary>
    protected static void StopProcess(int process)
    {
        Signal(process, "STOP");
        WaitUntil(() => IsStopped(process), $"process {process} does not stop");
    }

    /// <summary>Whether every thread of a process has stopped; each does so when it next returns to its code.</summary>
    private static bool IsStopped(int process) => Directory.GetDirectories($"/proc/{process}/task").All(static task =>
    {
        string status = File.ReadAllText(task + "/stat");
        return status[(status.LastIndexOf(')') + 2)..].StartsWith('T');
    });

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        foreach (string mountPoint in _mountPoints)
            Release(mountPoint);
        base.Dispose(disposing);
    }

    private static void Release(string mountPoint)
    {
        foreach (int daemon in DaemonsOf(mountPoint))
            _ = ProcessRunner.Run("/bin/kill", ["-KILL", daemon.ToString(CultureInfo.InvariantCulture)]);
        while (IsMounted(mountPoint) && ProcessRunner.Run("/bin/umount", ["-l", mountPoint]).ExitCode == 0)
        {
            // One of several mounts on top of each other is gone.
        }
    }

    /// <summary>The words of a process's command line; none for one that has ended.</summary>
    private static IReadOnlyList<string> CommandLineOf(int process)
    {
        try
        {
            return File.ReadAllText($"/proc/{process}/cmdline").Split('\0', StringSplitOptions.RemoveEmptyEntries);
        }
        catch (IOException)
        {
            return [];
        }
    }
}
