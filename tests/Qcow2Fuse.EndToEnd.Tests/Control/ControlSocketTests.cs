// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Control;

/// <summary>The socket itself: when it costs something, who may use it, and what becomes of it.</summary>
public sealed class ControlSocketTests : ControlTest
{
    private static readonly string[] ServerThreads = ["Kestrel", ".NET Sockets", ".NET TP"];

    [SkippableFact]
    public void An_idle_mount_has_no_web_server()
    {
        using MountedImage mounted = Start(NewImage());
        string[] before = ThreadsOf(mounted.ProcessId);
        Assert.DoesNotContain(before, static name => ServerThreads.Any(
            server => name.StartsWith(server, StringComparison.Ordinal)));
        Assert.Equal("ok\n", Get(mounted.ProcessId, "/healthz"));
        Assert.Contains(
            ThreadsOf(mounted.ProcessId), static name => name.StartsWith("Kestrel", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void The_socket_is_its_owners_and_goes_with_the_mount()
    {
        using MountedImage mounted = Start(NewImage());
        string socket = SocketOf(mounted.ProcessId);
        Assert.Equal("600 0 socket\n", Tool("stat", "-c", "%a %u %F", socket));
        Assert.Equal("ok\n", Get(mounted.ProcessId, "/healthz"));
        mounted.Unmount();
        Assert.False(File.Exists(socket));
    }

    [SkippableFact]
    public void Another_user_gets_no_answer_even_where_he_can_connect()
    {
        using MountedImage mounted = Start(NewImage());
        string[] curl =
        [
            "curl", "-sS", "--max-time", "20", "--unix-socket", SocketOf(mounted.ProcessId), "http://localhost/healthz",
        ];
        Assert.NotEqual(0, TryTool("setpriv", ["--reuid", "65534", "--clear-groups", .. curl]).ExitCode);
        ProcessResult connected = TryTool(
            "setpriv",
            [
                "--reuid", "65534", "--clear-groups", "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override",
                .. curl,
            ]);
        Assert.NotEqual(0, connected.ExitCode);
        Assert.Equal("", connected.Output);
        Assert.DoesNotContain("connect to", connected.Error, StringComparison.OrdinalIgnoreCase);
        Assert.Equal("ok\n", Get(mounted.ProcessId, "/healthz"));
    }

    /// <summary>A mount there may let others in. Names of it and sockets are none of their business.</summary>
    [SkippableFact]
    public void Others_go_through_the_directory_of_sockets_and_see_and_open_nothing()
    {
        using MountedImage mounted = Start(NewImage());
        string socket = SocketOf(mounted.ProcessId);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(socket));
        UnixFileMode mode = File.GetUnixFileMode(Path.GetDirectoryName(socket)!);
        Assert.Equal(
            UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute | UnixFileMode.GroupExecute
                | UnixFileMode.OtherExecute,
            mode);
    }

    [SkippableFact]
    public void The_socket_of_a_killed_daemon_hinders_nobody()
    {
        string image = NewImage();
        string socket;
        using (MountedImage killed = Start(image))
        {
            socket = SocketOf(killed.ProcessId);
            Signal(killed.ProcessId, "KILL");
            WaitUntil(() => !Directory.Exists($"/proc/{killed.ProcessId}/fd")
                || !Directory.EnumerateFileSystemEntries($"/proc/{killed.ProcessId}/fd").Any(), "it lives");

            // Its socket stays until somebody mounts again, who need not be this test.
            Run("list", "-v").ShouldSucceed();
            Run("snapshot", "-c", "after", image).ShouldSucceed();
            Tool("umount", "-l", killed.Directory);
        }

        using MountedImage next = Start(image);
        Assert.False(File.Exists(socket));
    }

    [SkippableFact]
    public void What_is_listed_has_what_the_daemon_says()
    {
        string image = NewImage("8M");
        using MountedImage mounted = Start(image);
        Tool("dd", "if=/dev/zero", $"of={mounted.RawFile}", "bs=1M", "count=2", "oflag=direct", "conv=notrunc",
            "status=none");
        JsonNode mount = JsonNode.Parse(Run("list", "-v", "--output=json").ShouldSucceed().Output)!["mounts"]!.AsArray()
            .Single(one => (string)one!["image"]! == image)!;
        JsonNode one = mount["daemon"]!["images"]!.AsArray().Single()!;
        Assert.Equal(mounted.RawFile, (string)one["file"]!);
        Assert.Equal(8 << 20, (int)one["virtual-size"]!);
        Assert.Equal(2 << 20, (int)one["requests"]!["written-bytes"]!);
        Assert.Contains(
            $"  {mounted.RawFile}: 8 MiB, open; 0 reads", Run("list", "-v").Output, StringComparison.Ordinal);
        Assert.DoesNotContain("\"daemon\"", Run("list", "--output=json").Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_daemon_that_hangs_is_listed_all_the_same()
    {
        string image = NewImage("8M");
        using MountedImage mounted = Start(image);
        Signal(mounted.ProcessId, "STOP");
        try
        {
            string seen = Run("list").ShouldSucceed().Output;
            Assert.Contains($" {mounted.ProcessId} ", seen, StringComparison.Ordinal);
            Assert.Contains(image, seen, StringComparison.Ordinal);
            string asked = Run("list", "-v").ShouldSucceed().Output;
            Assert.Contains(image, asked, StringComparison.Ordinal);
            Assert.DoesNotContain($"{mounted.RawFile}: 8 MiB", asked, StringComparison.Ordinal);
        }
        finally
        {
            Signal(mounted.ProcessId, "CONT");
        }
    }

    [SkippableFact]
    public void An_image_is_unmounted_by_its_name()
    {
        string image = NewImage("8M");
        using MountedImage mounted = Start(image);
        using (File.OpenRead(mounted.RawFile))
        {
            ProcessResult busy = Run("umount", image);
            Assert.Equal(32, busy.ExitCode);
            OneLine.Error(busy, $"in use: dotnet (pid {Environment.ProcessId}) has disk.raw open");
        }

        using (FileStream raw = File.OpenWrite(mounted.RawFile))
            raw.Write("kept"u8);
        ShouldPrint(0, "", "", "umount", image);
        QemuTools.Img("convert", "-O", "raw", image, PathOf("out.raw"));
        Assert.Equal("kept"u8, File.ReadAllBytes(PathOf("out.raw")).AsSpan(0, 4));
    }

    /// <summary>As many as there is place for are kept, and none of them for long.</summary>
    [SkippableFact]
    [Trait(Speed.Name, Speed.Slow)]
    public void Connections_that_say_nothing_keep_nobody_for_long()
    {
        using MountedImage mounted = Start(NewImage());
        string socket = SocketOf(mounted.ProcessId);
        Socket[] silent = [.. Enumerable.Range(0, 40).Select(_ =>
        {
            Socket one = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            one.Connect(new UnixDomainSocketEndPoint(socket));
            return one;
        })];
        try
        {
            Eventually.Holds(() => silent.Count(static one => one.Poll(0, SelectMode.SelectRead)) >= 40 - 16);
            Eventually.Holds(() => TryTool(
                    "curl", "-sS", "--max-time", "5", "--unix-socket", socket, "http://localhost/healthz")
                .Output == "ok\n");
        }
        finally
        {
            foreach (Socket one in silent)
                one.Dispose();
        }
    }

    [SkippableFact]
    public void Requests_that_make_no_sense_are_refused()
    {
        using MountedImage mounted = Start(NewImage());
        string Post(string path, string body) => Tool(
            "curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "--data", body,
            "--unix-socket", SocketOf(mounted.ProcessId), "http://localhost" + path);
        Assert.Equal("404", Post("/v1/nothing", "{}"));
        Assert.Equal("400", Post("/v1/snapshot", "{"));
        Assert.Equal("400", Post("/v1/snapshot", "null"));
        Assert.Equal("400", Post("/v1/snapshot", "{\"image\": null}"));
        Assert.Equal("413", Post("/v1/snapshot", new string(' ', 100_000)));
        string answer = Tool(
            "curl", "-sS", "--unix-socket", SocketOf(mounted.ProcessId), "--data", "{\"image\":\"/none\"}",
            "http://localhost/v1/info");
        Assert.Contains("is not mounted here", answer, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void A_signal_writes_statistics_to_the_log()
    {
        RequireMounting();
        string image = NewImage("8M");
        string mountPoint = PathOf("mnt");
        Directory.CreateDirectory(mountPoint);
        string log = PathOf("log");
        using Process daemon = Process.Start(
            "/bin/sh", ["-c", "exec \"$0\" mount -f \"$1\" \"$2\" 2>\"$3\"", FindProgram()!, image, mountPoint, log]);
        try
        {
            WaitUntil(() => File.Exists(Path.Combine(mountPoint, "disk.raw")), "nothing is mounted");
            Signal(daemon.Id, "USR1");
            WaitUntil(() => File.ReadAllText(log).Contains("disk: 0 reads (0 B)", StringComparison.Ordinal), "no line");
        }
        finally
        {
            _ = ProcessRunner.Run("umount", ["-l", mountPoint]);
            daemon.WaitForExit();
        }
    }
}
