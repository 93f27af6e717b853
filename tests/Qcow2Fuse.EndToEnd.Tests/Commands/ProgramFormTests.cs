// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary>The program as it ships: native, and deaf to what callers set for other programs.</summary>
public sealed class ProgramFormTests : MountTest
{
    [SkippableFact]
    public void The_program_is_native()
    {
        // Who asked for the other form does not want this one tested; build servers may not.
        bool isOther = Environment.GetEnvironmentVariable("NATIVE") is "0";
        QemuTools.Require(!isOther, "NATIVE=0 asked for the other form of the program");
        Assert.EndsWith(" (native)\n", Run("--version").ShouldSucceed().Output, StringComparison.Ordinal);
        string symbols = FindProgram()! + ".dbg";
        Assert.True(File.Exists(symbols), symbols);
        Assert.InRange(new FileInfo(FindProgram()!).Length, 1, 13 << 20);
    }

    [SkippableTheory]
    [InlineData("DOTNET_GCHeapHardLimit", "100")]
    [InlineData("DOTNET_GCRegionRange", "10000")]
    [InlineData("DOTNET_GCRegionSize", "40000000")]
    [InlineData("DOTNET_gcServer", "1")]
    [InlineData("DOTNET_GCgen0size", "10000000")]
    [InlineData("DOTNET_ThreadPool_ForceMaxWorkerThreads", "1")]
    public void Variables_of_the_runtime_change_nothing(string name, string value)
    {
        RequireNative();
        string image = NewImage();
        string usual = Run("info", image).ShouldSucceed().Output;
        SetEnvironment(name, value);
        Assert.Equal(usual, Run("info", image).ShouldSucceed().Output);
        string raw = Mount(image);
        string metrics = File.ReadAllText(Path.Combine(Path.GetDirectoryName(raw)!, ".qcow2fuse/metrics"));
        Assert.Contains("qcow2fuse_managed_limit_bytes 134217728\n", metrics, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void A_command_that_is_run_gets_the_environment_of_the_caller()
    {
        RequireMounting();
        SetEnvironment("DOTNET_ROOT", "/opt/dotnet");
        string output = Run("run", NewImage(), "--", "/bin/sh", "-c", "echo $DOTNET_ROOT").ShouldSucceed().Output;
        Assert.Equal("/opt/dotnet\n", output);
    }

    /// <summary>As from a shell, also after the daemon was started, which gets none of them.</summary>
    [SkippableFact]
    public void A_command_that_is_run_gets_the_descriptors_of_the_caller()
    {
        string image = NewImage();
        string script = $"exec \"{FindProgram()}\" run {image} -- readlink /proc/self/fd/7 7</etc/passwd";
        Assert.Equal("/etc/passwd\n", Tool("/bin/bash", "-c", script));
    }

    /// <summary>A file that is opened in place of a stream would take the messages.</summary>
    [SkippableFact]
    public void Closed_standard_streams_harm_no_file()
    {
        RequireNative();
        string image = NewImage();
        string mountPoint = NewMountPoint();
        byte[] before = File.ReadAllBytes(image);
        ProcessResult result = TryTool("/bin/sh", "-c",
            $"\"{FindProgram()}\" info /nonexistent <&- >&- 2>&-; \"{FindProgram()}\" check {image} <&- >&- 2>&-; "
            + $"\"{FindProgram()}\" -o ro {image} {mountPoint} <&- >&- 2>&-");
        Assert.Equal(0, result.ExitCode);
        Assert.Equal(before, File.ReadAllBytes(image));
        Assert.True(IsMounted(mountPoint));
    }

    /// <summary>As MemoryDenyWriteExecute= of systemd has it, also for what it loads later.</summary>
    [SkippableTheory]
    [InlineData("fuse")]
    [InlineData("uring")]
    public void No_memory_becomes_executable(string transport)
    {
        RequireNative();
        QemuTools.RequireTool("perl");
        string mountPoint = NewMountPoint();
        string image = NewImage(options: "compression_type=zstd");
        const string Deny =
            "use Config; my $prctl = $Config{archname} =~ /aarch64/ ? 167 : 157;"
            + " exit(77) if syscall($prctl, 65, 1, 0, 0, 0) != 0; exec(@ARGV) or die";
        ProcessResult result = TryTool(
            "perl", "-e", Deny, FindProgram()!, image, mountPoint, "-o", $"compress,transport={transport}");
        Skip.If(result.ExitCode == 77, "the kernel does not know PR_SET_MDWE (before Linux 6.3)");
        result.ShouldSucceed();
        string raw = RawFileOf(image, mountPoint);
        Tool("dd", "if=/dev/zero", $"of={raw}", "bs=1M", "count=4", "conv=notrunc,fsync", "status=none");

        // The web server of the control socket.
        Run("snapshot", "-c", "one", image).ShouldSucceed();
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Assert.DoesNotContain(File.ReadLines($"/proc/{daemon}/maps"), static line =>
            line.Split(' ')[1].StartsWith("rwx", StringComparison.Ordinal));
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
    }

    /// <summary>As services run tools on images of strangers, and as small containers do.</summary>
    [SkippableFact]
    public void One_GiB_of_address_space_is_enough()
    {
        QemuTools.RequireTool("prlimit");
        RequireMounting();
        string mountPoint = NewMountPoint();
        string image = NewImage();
        foreach (string[] arguments in (string[][])
            [["info", image], ["check", image], [image, mountPoint, "-o", "cache=none"]])
        {
            Tool("prlimit", ["--as=1073741824", FindProgram()!, .. arguments]);
        }

        Tool("dd", "if=/dev/zero", $"of={RawFileOf(image, mountPoint)}", "bs=1M", "count=4", "conv=notrunc,fsync",
            "status=none");
        Run("snapshot", "-c", "one", image).ShouldSucceed();
    }

    /// <summary>Settings are read whole, into managed memory: more of them than there is of it.</summary>
    [SkippableFact]
    public void The_end_of_the_heap_is_one_line()
    {
        RequireNative();
        Directory.CreateDirectory(PathOf("qcow2fuse"));
        File.WriteAllText(
            PathOf("qcow2fuse/qcow2fuse.json"), string.Concat("{\"source\":\"", new string('x', 100 << 20), "\"}"));
        SetEnvironment("XDG_CONFIG_HOME", WorkDirectory);
        ShouldPrint(2, "", "qcow2fuse: out of memory\n", NewImage(), NewMountPoint());
    }

    /// <summary>The start of a mount does not leave the caller's locks with the daemon.</summary>
    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_daemon_holds_nothing_of_its_caller(bool staysInForeground)
    {
        RequireMounting();
        QemuTools.RequireTool("flock");
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string locked = PathOf("lock");
        File.WriteAllText(locked, "");
        string options = staysInForeground ? "-f" : "";
        string script = $"exec 9<{locked} 33</; flock -x 9; \"{FindProgram()}\" mount {options} {image} {mountPoint}";
        using Process? foreground = staysInForeground
            ? Process.Start(new ProcessStartInfo("/bin/bash", ["-c", script + " & echo $!; wait"])
            { RedirectStandardOutput = true })
            : null;
        if (foreground is null)
            TryTool("/bin/bash", "-c", script).ShouldSucceed();
        else
            WaitUntil(() => IsMounted(mountPoint), "nothing is mounted");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        string[] files = [.. Directory.GetFiles($"/proc/{daemon}/fd").Select(static file =>
            new FileInfo(file).LinkTarget ?? "")];
        Assert.DoesNotContain(locked, files);
        Assert.DoesNotContain("/", files);
        Unmount(mountPoint);
        foreground?.WaitForExit();
    }

    private static void RequireNative() => QemuTools.Require(
        Environment.GetEnvironmentVariable("NATIVE") is not "0", "NATIVE=0 asked for the other form of the program");
}
