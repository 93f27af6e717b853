// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Block.Tests;

/// <summary>A QEMU program that has an image open until this is disposed.</summary>
internal sealed class QemuHolder : IDisposable
{
    private readonly Process _process;

    private QemuHolder(Process process) => _process = process;

    public int ProcessId => _process.Id;

    /// <summary>Opens an image with qemu-io or qemu-storage-daemon; null if that refuses because of a lock.</summary>
    public static QemuHolder? TryStart(string program, string image, bool readOnly) =>
        program == "qemu-io" ? TryStartIo(image, readOnly) : TryStartDaemon(image, readOnly);

    /// <summary>Makes an image with qemu-img.</summary>
    public static void CreateImage(params string[] arguments)
    {
        using Process process = Process.Start("qemu-img", ["create", "-q", .. arguments]);
        process.WaitForExit();
        if (process.ExitCode != 0)
            throw new InvalidOperationException($"qemu-img create: exit code {process.ExitCode}");
    }

    /// <summary>The bytes that the process has locked in a file, as the kernel shows them.</summary>
    public static SortedSet<long> LockedBytes(int processId, string path)
    {
        SortedSet<long> bytes = [];
        foreach (string fd in Directory.EnumerateFiles($"/proc/{processId}/fd"))
        {
            if (new FileInfo(fd).LinkTarget != path)
                continue;
            foreach (string line in File.ReadLines(fd.Replace("/fd/", "/fdinfo/", StringComparison.Ordinal)))
            {
                string[] parts = line.Split((char[])[' ', '\t'], StringSplitOptions.RemoveEmptyEntries);
                if (parts[0] != "lock:")
                    continue;
                for (long at = long.Parse(parts[^2]); at <= long.Parse(parts[^1]); at++)
                    bytes.Add(at);
            }
        }

        return bytes;
    }

    public void Dispose()
    {
        if (!_process.HasExited)
            _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }

    private static QemuHolder? TryStartIo(string image, bool readOnly)
    {
        // What follows the opening waits for input that never comes.
        string[] mode = readOnly ? ["-r"] : [];
        Process process = Start("qemu-io", [.. mode, "-f", "qcow2", image]);
        char[] prompt = new char[1];
        bool opened = process.StandardOutput.Read(prompt, 0, 1) == 1;
        return Judge(process, opened);
    }

    private static QemuHolder? TryStartDaemon(string image, bool readOnly)
    {
        string pidFile = Path.Combine(Path.GetDirectoryName(image)!, Path.GetRandomFileName());
        string mode = readOnly ? "on" : "off";
        Process process = Start(
            "qemu-storage-daemon",
            [
                "--blockdev", $"file,node-name=file,filename={image},read-only={mode}",
                "--blockdev", $"qcow2,node-name=disk,file=file,read-only={mode}",
                "--pidfile", pidFile,
            ]);
        Eventually.Holds(() => process.HasExited || File.Exists(pidFile), "qemu-storage-daemon does not become ready");
        return Judge(process, File.Exists(pidFile));
    }

    private static Process Start(string program, string[] arguments)
    {
        return Process.Start(new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
    }

    private static QemuHolder? Judge(Process process, bool opened)
    {
        if (opened)
            return new QemuHolder(process);
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        process.Dispose();
        if (error.Contains("lock", StringComparison.Ordinal))
            return null;
        throw new InvalidOperationException($"it failed for another reason than a lock: {error}");
    }
}
