// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Text;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>A mount served by a process of its own: a test process must not serve what it uses.</summary>
internal sealed class HostProcess : IDisposable
{
    public const long Size = 64 << 20;

    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly Process _process;
    private readonly StringBuilder _errors = new();

    private HostProcess(string mountPoint, string words)
    {
        MountPoint = mountPoint;
        ProcessStartInfo start = new(Program)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = "/",
        };
        foreach (string argument in (string[])
            [mountPoint, Size.ToString(CultureInfo.InvariantCulture), "-o", words.Length > 0 ? words : "rw"])
        {
            start.ArgumentList.Add(argument);
        }

        _process = Process.Start(start)!;
        _process.ErrorDataReceived += (_, line) =>
        {
            lock (_errors)
                _errors.AppendLine(line.Data);
        };
        _process.BeginErrorReadLine();
    }

    /// <summary>Path of the program that serves.</summary>
    public static string Program => Path.Combine(AppContext.BaseDirectory, "Qcow2Fuse.Fuse.TestHost");

    public string MountPoint { get; }

    /// <summary>The file that is served in the mounted directory.</summary>
    public string FilePath => Path.Combine(MountPoint, MemoryFileSystem.FileName);

    public int Id => _process.Id;

    /// <summary>Everything it printed to stderr.</summary>
    public string Errors
    {
        get
        {
            lock (_errors)
                return _errors.ToString();
        }
    }

    /// <summary>
    /// Skips the test where mounting is impossible, or fails it where the environment says that nothing may be
    /// skipped.
    /// </summary>
    public static void Require()
    {
        string reason = "";
        try
        {
            using FileStream device = new("/dev/fuse", FileMode.Open, FileAccess.ReadWrite);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            reason = error.Message;
        }

        if (Environment.GetEnvironmentVariable("QCOW2FUSE_REQUIRE_ALL") == "1")
            Assert.Equal("", reason);
        Skip.If(reason.Length > 0, reason);
    }

    /// <summary>Whether requests come to it over io_uring.</summary>
    public bool HasRings => Directory.GetFiles(string.Create(CultureInfo.InvariantCulture, $"/proc/{Id}/fd"))
        .Any(static path => new FileInfo(path).LinkTarget == "anon_inode:[io_uring]");

    /// <summary>
    /// Starts with the transport a test is about, "fuse" or "uring", and waits until the mount answers. Skips the test
    /// where that is impossible.
    /// </summary>
    public static HostProcess StartOver(string transport, string mountPoint, string words = "")
    {
        Require();
        if (transport != "uring")
            return Start(mountPoint, words);
        UringSwitch.Require();
        using UringSwitch on = UringSwitch.Hold(on: true);
        HostProcess host = Start(mountPoint, words.Length > 0 ? words + ",uring" : "uring");
        if (host.HasRings)
            return host;
        string errors = host.Errors;
        host.Dispose();
        throw new InvalidOperationException($"the host has no rings: {errors}");
    }

    /// <summary>Starts and waits until the mount answers.</summary>
    public static HostProcess Start(string mountPoint, string words = "")
    {
        HostProcess host = new(mountPoint, words);
        Task<string?> line = host._process.StandardOutput.ReadLineAsync();
        if (line.Wait(Patience) && line.Result == "ready")
            return host;

        host._process.WaitForExit(Patience);
        string errors = host.Errors;
        host.Dispose();
        throw new InvalidOperationException($"the host did not start: {errors}");
    }

    /// <summary>Sends a signal by name, as "TERM".</summary>
    public void Signal(string name) =>
        Shell.Output("kill -s \"$1\" \"$2\"", name, Id.ToString(CultureInfo.InvariantCulture));

    /// <summary>Waits for the end; the exit code.</summary>
    public int WaitForExit()
    {
        if (!_process.WaitForExit(Patience))
            throw new TimeoutException($"the host did not end: {Errors}");
        _process.WaitForExit();
        return _process.ExitCode;
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            _process.WaitForExit();
        }

        _process.Dispose();
        Shell.Run("umount -l \"$1\"", MountPoint);
    }
}
