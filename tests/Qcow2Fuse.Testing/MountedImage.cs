// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Security.Cryptography;
using System.Text;

namespace Qcow2Fuse.Testing;

/// <summary>
/// An image mounted by the built program, which runs as a child process. Disposing unmounts it and makes sure that
/// neither mount nor process is left.
/// </summary>
public sealed class MountedImage : IDisposable
{
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly Process _process;
    private readonly StringBuilder _messages = new();

    private MountedImage(Process process, string directory, string raw)
    {
        _process = process;
        Directory = directory;
        RawFile = raw;
    }

    /// <summary>The mount point.</summary>
    public string Directory { get; }

    /// <summary>The raw file in it.</summary>
    public string RawFile { get; }

    /// <summary>The process id of the program.</summary>
    public int ProcessId => _process.Id;

    /// <summary>Whether this machine lets the calling user mount: root with /dev/fuse.</summary>
    public static bool IsPossible => Environment.IsPrivilegedProcess && File.Exists("/dev/fuse");

    /// <summary>
    /// Mounts <paramref name="image"/> on <paramref name="directory"/>, which is created, and returns when the raw file
    /// is there. Skips the calling test where that is not possible, unless all is required.
    /// </summary>
    public static MountedImage Start(string image, string directory, params string[] options)
    {
        string? program = CommandTest.FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        QemuTools.Require(IsPossible, "mounting needs root and /dev/fuse");
        System.IO.Directory.CreateDirectory(directory);
        ProcessStartInfo start = new(program!)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (string argument in (string[])["mount", "-f", .. options, image, directory])
            start.ArgumentList.Add(argument);
        Process process = Process.Start(start)!;
        string raw = Path.Combine(directory, Path.GetFileNameWithoutExtension(image) + ".raw");
        MountedImage mounted = new(process, directory, raw);
        process.OutputDataReceived += mounted.Collect;
        process.ErrorDataReceived += mounted.Collect;
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        process.StandardInput.Close();
        mounted.WaitUntilThere();
        return mounted;
    }

    /// <summary>The SHA-256 of the raw file, read from its first byte to its last.</summary>
    public string Hash()
    {
        using FileStream file = File.OpenRead(RawFile);
        return Convert.ToHexString(SHA256.HashData(file));
    }

    /// <summary>Unmounts from outside and waits until the program has ended with exit code 0.</summary>
    public void Unmount()
    {
        ProcessRunner.Run("umount", [Directory]).ShouldSucceed();
        if (!_process.WaitForExit(Patience))
            throw new TimeoutException($"the program has not ended {Patience} after umount\n{_messages}");
        if (_process.ExitCode != 0)
            throw new InvalidOperationException($"the program ended with {_process.ExitCode}\n{_messages}");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_process.HasExited)
        {
            ProcessRunner.Run("umount", ["-l", Directory]);
            if (!_process.WaitForExit(Patience))
                _process.Kill();
            _process.WaitForExit();
        }

        _process.Dispose();
    }

    private void WaitUntilThere()
    {
        Eventually.Comes(() => File.Exists(RawFile) || _process.HasExited);
        if (File.Exists(RawFile))
            return;
        string text = $"{RawFile} has not appeared\n{_messages}";
        Dispose();
        throw new InvalidOperationException(text);
    }

    private void Collect(object sender, DataReceivedEventArgs line)
    {
        lock (_messages)
            _messages.AppendLine(line.Data);
    }
}
