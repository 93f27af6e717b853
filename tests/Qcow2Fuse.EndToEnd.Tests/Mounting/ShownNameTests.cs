// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>
/// Names that want to be more than names: with ends of lines that begin messages of their own, with what moves a
/// terminal's cursor or reorders what it shows. Wherever they are shown one message stays one, and in the mount they
/// are the bytes they are.
/// </summary>
public sealed class ShownNameTests : MountTest
{
    private const string Nasty = "d\nMAINPID=1\n<0>qcow2fuse: fake\u001b]0;x\a\u009b31m\u202e";
    private const string Escaped = @"d\x0aMAINPID=1\x0a<0>qcow2fuse: fake\x1b]0;x\x07\x9b31m\u{202e}";

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    [SkippableFact]
    public void A_service_manager_and_a_log_hear_one_message_of_each_kind()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage(name: Nasty + ".qcow2");
        using Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified)
        { ReceiveTimeout = (int)Patience.TotalMilliseconds };
        socket.Bind(new UnixDomainSocketEndPoint(PathOf("notify")));
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        ProcessStartInfo start = new(program!, ["mount", "--foreground", image, mountPoint])
        { UseShellExecute = false, RedirectStandardError = true };
        start.Environment["NOTIFY_SOCKET"] = PathOf("notify");
        using Process daemon = Process.Start(start)!;

        byte[] message = new byte[65536];
        string[] lines;
        do
            lines = Encoding.UTF8.GetString(message, 0, socket.Receive(message)).Split('\n');
        while (!lines.Contains("READY=1", StringComparer.Ordinal));
        Assert.Equal(
            ["READY=1", $"STATUS={Escaped}.qcow2 (64 MiB) on {mountPoint}", $"MAINPID={daemon.Id}"], lines);
        Assert.True(File.Exists(Path.Combine(mountPoint, Nasty + ".raw")));

        Signal(daemon.Id, "TERM");
        string log = daemon.StandardError.ReadToEnd();
        Assert.True(daemon.WaitForExit(Patience), "the daemon does not end");
        Assert.All(
            log.TrimEnd('\n').Split('\n'),
            static line => Assert.StartsWith("qcow2fuse: ", line, StringComparison.Ordinal));
        ShouldBePlain(log);
        Assert.Contains($"mounted {Escaped}.qcow2", log, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Commands_print_lines_and_JSON_that_say_what_the_name_is()
    {
        string image = PathOf(Nasty + ".qcow2");
        ProcessResult made = Run("create", "-u", "-b", Nasty, "-F", "raw", image, "1M").ShouldSucceed();
        Assert.Equal(2, made.Output.Split('\n').Length);
        ShouldBePlain(made.Output);

        ProcessResult text = Run("info", image).ShouldSucceed();
        ShouldBePlain(text.Output);
        Assert.Contains($"\nbacking file: {Escaped}", text.Output, StringComparison.Ordinal);
        foreach (string[] command in (string[][])[["info", "--output=json", image], ["check", "--output=json", image]])
        {
            ProcessResult json = Run(command).ShouldSucceed();
            ShouldBePlain(json.Output);
            using JsonDocument document = JsonDocument.Parse(json.Output);
            Assert.Equal(image, document.RootElement.GetProperty("filename").GetString());
            if (command[0] == "info")
                Assert.Equal(Nasty, document.RootElement.GetProperty("backing-filename").GetString());
        }

        ProcessResult failed = Run("info", image + "\u001b\nqcow2fuse: fake");
        Assert.NotEqual(0, failed.ExitCode);
        ShouldBePlain(failed.Error);
        Assert.Single(failed.Error.TrimEnd('\n').Split('\n'));
    }

    [SkippableFact]
    public void What_a_mount_says_of_an_image_stays_in_its_line()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage(name: Nasty + ".qcow2");
        ProcessResult result = Run("mount", image, mountPoint).ShouldSucceed();
        ShouldBePlain(result.Output + result.Error);
        ShouldBePlain(Run("list").ShouldSucceed().Output);
        ShouldBePlain(Run("list", "--output=json").ShouldSucceed().Output);
        ShouldBePlain(Run("info", image).ShouldSucceed().Output);
        string details = Path.Combine(mountPoint, ".qcow2fuse", Nasty);
        ShouldBePlain(File.ReadAllText(Path.Combine(details, "info")));
        string metrics = File.ReadAllText(Path.Combine(mountPoint, ".qcow2fuse/metrics"));
        ShouldBePlain(metrics);
        Assert.DoesNotContain("\nMAINPID", metrics, StringComparison.Ordinal);
        Assert.Equal([Nasty + ".raw"], Directory.GetFiles(mountPoint).Select(Path.GetFileName));
    }

    private static void ShouldBePlain(string output)
    {
        Assert.DoesNotContain("\nMAINPID", output, StringComparison.Ordinal);
        Assert.All(output, static one => Assert.False(
            one != '\n' && (char.IsControl(one) || one == '\u202e'), $"U+{(int)one:X4} is shown"));
    }
}
