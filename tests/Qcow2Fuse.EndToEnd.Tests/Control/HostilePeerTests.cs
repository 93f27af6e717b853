// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Text;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Control;

/// <summary>
/// Whoever answers on a control socket is not believed: commands look where root and the caller alone can put sockets,
/// ask the kernel who answers, and take paths from the kernel.
/// </summary>
public sealed class HostilePeerTests : ControlTest
{
    private const string Other = "65533";
    private const string OwnDirectory = "/run/qcow2fuse";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    /// <summary>Root does nothing with a socket in a user's directory, but tells that the image is in use.</summary>
    [SkippableFact]
    public void The_socket_of_another_user_is_not_even_connected_to()
    {
        RequireMounting();
        string image = NewImage();
        string victim = NewVictim();
        string directory = $"/run/user/{Other}";
        bool madeAll = !Directory.Exists("/run/user");
        Directory.CreateDirectory(directory + "/qcow2fuse");
        Tool("chown", "-R", Other, directory);
        try
        {
            string socket = $"{directory}/qcow2fuse/{Environment.ProcessId}.sock";
            using FakeDaemon fake = new(image, socket, line => Believed(line, image, victim));
            Tool("chown", Other, socket);
            ShouldRefuse(image, victim);
            Assert.Empty(fake.Requests);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
            if (madeAll)
                Directory.Delete("/run/user");
        }
    }

    /// <summary>Nor where the directory is root's, but a user made the socket, or others can make sockets there.
    /// </summary>
    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_socket_that_others_could_have_made_is_not_connected_to(bool isOthers)
    {
        RequireMounting();
        string image = NewImage();
        string victim = NewVictim();
        string socket = OwnSocket(Environment.ProcessId);
        using FakeDaemon fake = new(image, socket, line => Believed(line, image, victim));
        Tool(isOthers ? "chown" : "chmod", isOthers ? Other : "0777", socket);
        ShouldRefuse(image, victim);
        Assert.Empty(fake.Requests);
    }

    [SkippableFact]
    public void Another_process_than_the_name_says_is_not_asked()
    {
        RequireMounting();
        string image = NewImage();
        string victim = NewVictim();

        // It has the image open, so that it may be the daemon.
        using Process holder = Process.Start("/bin/sh", ["-c", $"exec sleep 600 <{image}"]);
        try
        {
            WaitUntil(
                () => File.ReadAllText($"/proc/{holder.Id}/cmdline").StartsWith("sleep", StringComparison.Ordinal),
                "sleep does not begin");
            using FakeDaemon fake = new(image, OwnSocket(holder.Id), line => Believed(line, image, victim));
            ShouldRefuse(image, victim);
            Assert.Empty(fake.Requests);
        }
        finally
        {
            holder.Kill();
            holder.WaitForExit();
        }
    }

    /// <summary>One that may be asked, but serves no mount that the kernel knows.</summary>
    [SkippableTheory]
    [InlineData(-1)]
    [InlineData(1_000_000)]
    public void No_path_of_a_peer_is_opened(int connection)
    {
        RequireMounting();
        string image = NewImage();
        string victim = NewVictim();
        using FakeDaemon fake = new(
            image, OwnSocket(Environment.ProcessId), line => Believed(line, image, victim, connection));
        ShouldRefuse(image, victim);
        Assert.All(fake.Requests, static line => Assert.StartsWith("GET ", line, StringComparison.Ordinal));
    }

    /// <summary>Nor one outside of the mount, where the kernel knows the mount.</summary>
    [SkippableFact]
    public void The_raw_file_is_looked_for_in_the_mount_alone()
    {
        string image = NewImage();
        string mounted = NewImage(name: "mounted.qcow2");
        string raw = Mount(mounted);
        string victim = NewVictim();
        string mountPoint = Path.GetDirectoryName(raw)!;
        int connection = int.Parse(
            File.ReadLines("/proc/self/mountinfo").Select(static line => line.Split(' '))
                .First(fields => fields[4] == mountPoint)[2].Split(':')[1],
            CultureInfo.InvariantCulture);
        File.CreateSymbolicLink(PathOf("mounted.raw"), victim);
        using FakeDaemon fake = new(
            image, OwnSocket(Environment.ProcessId),
            line => Believed(line, image, PathOf("../victim"), connection));
        _ = Run("info", image);
        Assert.Equal(1000, new FileInfo(victim).Length);
        OneLine.Error(Run("snapshot", "-c", "one", image), "cannot be flushed first");
        Assert.NotEmpty(fake.Requests);
    }

    /// <summary>A byte now and then is a sign of life, but not for ever.</summary>
    [SkippableFact]
    public void A_list_that_never_ends_is_given_up()
    {
        RequireMounting();
        string image = NewImage();
        using FakeDaemon fake = new(image, OwnSocket(Environment.ProcessId), Drip);
        ProcessResult result = Run(Patience, "info", image);
        Assert.NotEqual(0, result.ExitCode);
        OneLine.Error(result, "disk.qcow2");
        Assert.NotEmpty(fake.Requests);
    }

    /// <summary>An answer that is larger than any is given up, before it has filled the memory.</summary>
    [SkippableFact]
    public void A_list_without_bounds_is_given_up()
    {
        RequireMounting();
        string image = NewImage();
        using FakeDaemon fake = new(image, OwnSocket(Environment.ProcessId), Flood);
        ProcessResult result = Run(Patience, "info", image);
        Assert.NotEqual(0, result.ExitCode);
        OneLine.Error(result, "disk.qcow2");
        Assert.NotEmpty(fake.Requests);
    }

    private static string OwnSocket(int process)
    {
        Directory.CreateDirectory(
            OwnDirectory, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        return string.Create(CultureInfo.InvariantCulture, $"{OwnDirectory}/{process}.sock");
    }

    /// <summary>What a daemon says whose raw file is the victim: a size of 0, to which it would be truncated.</summary>
    private static IEnumerable<byte[]> Believed(string line, string image, string victim, int connection = 1)
    {
        yield return line.StartsWith("GET", StringComparison.Ordinal)
            ? FakeDaemon.Mounts(image, Path.GetDirectoryName(victim)!, victim, connection)
            : FakeDaemon.Answer("""{"exit-code":0,"output":"all is well\n","file-size":0}""");
    }

    private static byte[] Head() => Encoding.UTF8.GetBytes(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");

    /// <summary>A blank each second; the peer, not this, ends it.</summary>
    private static IEnumerable<byte[]> Drip(string line)
    {
        yield return Head();
        using ManualResetEventSlim never = new();
        while (!never.Wait(TimeSpan.FromSeconds(1)))
            yield return " "u8.ToArray();
    }

    private static IEnumerable<byte[]> Flood(string line)
    {
        yield return Head();
        byte[] blanks = new byte[1 << 20];
        Array.Fill(blanks, (byte)' ');
        while (true)
            yield return blanks;
    }

    private string NewVictim()
    {
        string victim = PathOf("victim");
        File.WriteAllBytes(victim, new byte[1000]);
        return victim;
    }

    private void ShouldRefuse(string image, string victim)
    {
        ProcessResult result = Run("info", image);
        Assert.NotEqual(0, result.ExitCode);
        OneLine.Error(result, "disk.qcow2");
        Assert.DoesNotContain("all is well", result.Output, StringComparison.Ordinal);
        Assert.Equal(1000, new FileInfo(victim).Length);
    }
}
