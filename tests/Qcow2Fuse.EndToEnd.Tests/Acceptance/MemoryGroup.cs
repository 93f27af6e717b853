// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>
/// A control group with a limit on memory, page cache included, by cgroup v2 or v1, whichever of them has the memory
/// controller here. It is removed when disposed; no process may be in it then.
/// </summary>
internal sealed class MemoryGroup : IDisposable
{
    private readonly string _directory;

    private MemoryGroup(string directory, bool isVersion2, long bytes)
    {
        _directory = directory;
        IsVersion2 = isVersion2;
        Directory.CreateDirectory(directory);
        try
        {
            File.WriteAllText(
                Path.Combine(directory, isVersion2 ? "memory.max" : "memory.limit_in_bytes"),
                bytes.ToString(CultureInfo.InvariantCulture));
        }
        catch
        {
            Directory.Delete(directory);
            throw;
        }
    }

    /// <summary>Whether it is a group of cgroup v2.</summary>
    public bool IsVersion2 { get; }

    /// <summary>The file that takes the number of a process to be put into the group.</summary>
    public string Processes => Path.Combine(_directory, "cgroup.procs");

    /// <summary>How many processes were killed for want of memory.</summary>
    public long Kills
    {
        get
        {
            string file = Path.Combine(_directory, IsVersion2 ? "memory.events" : "memory.oom_control");
            string line = File.ReadLines(file).First(static l => l.StartsWith("oom_kill ", StringComparison.Ordinal));
            return long.Parse(line.Split(' ')[1], CultureInfo.InvariantCulture);
        }
    }

    /// <summary>Most bytes ever charged.</summary>
    public long Peak
    {
        get
        {
            string file = Path.Combine(_directory, IsVersion2 ? "memory.peak" : "memory.max_usage_in_bytes");
            return File.Exists(file) ? long.Parse(File.ReadAllText(file).Trim(), CultureInfo.InvariantCulture) : 0;
        }
    }

    /// <summary>Makes a group; skips the calling test where that is not possible.</summary>
    public static MemoryGroup Create(long bytes)
    {
        (string? root, bool isVersion2) = FindController();
        QemuTools.Require(root is not null, "no control group has the memory controller");
        try
        {
            string name = string.Create(CultureInfo.InvariantCulture, $"qcow2fuse-test-{Environment.ProcessId}");
            return new MemoryGroup(Path.Combine(root!, name), isVersion2, bytes);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            QemuTools.Require(false, $"a control group cannot be made in {root}: {exception.Message}");
            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // A process leaves its group a moment after it has ended.
        Eventually.Holds(() => File.ReadAllText(Processes).Length == 0, "a process stays in the control group");
        Directory.Delete(_directory);
    }

    private static (string? Root, bool IsVersion2) FindController()
    {
        foreach (string line in File.ReadLines("/proc/self/mountinfo"))
        {
            string[] halves = line.Split(" - ");
            string[] system = halves[^1].Split(' ');
            string mountPoint = halves[0].Split(' ')[4];
            if (system[0] == "cgroup" && system[^1].Split(',').Contains("memory", StringComparer.Ordinal))
                return (mountPoint, false);
            string children = Path.Combine(mountPoint, "cgroup.subtree_control");
            if (system[0] == "cgroup2" && File.Exists(children)
                && File.ReadAllText(children).Trim().Split(' ').Contains("memory", StringComparer.Ordinal))
            {
                return (mountPoint, true);
            }
        }

        return (null, false);
    }
}
