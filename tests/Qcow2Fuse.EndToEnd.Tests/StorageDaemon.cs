// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.EndToEnd.Tests;

/// <summary>A qemu-storage-daemon that has an image open for as long as this object lives.</summary>
public sealed class StorageDaemon : IDisposable
{
    private readonly Process _process;
    private readonly TempDirectory _directory;

    private StorageDaemon(Process process, TempDirectory directory)
    {
        _process = process;
        _directory = directory;
    }

    /// <summary>Opens an image and returns once the daemon holds it.</summary>
    /// <param name="image">The image.</param>
    /// <param name="readOnly">Open it only for reading.</param>
    public static StorageDaemon Open(string image, bool readOnly = false)
    {
        TempDirectory directory = new();
        StorageDaemon daemon = new(Start(image, readOnly, directory), directory);
        Eventually.Comes(
            () => File.Exists(directory.File("ready")) || daemon._process.HasExited);
        if (File.Exists(directory.File("ready")))
            return daemon;
        string reason = daemon._process.HasExited ? daemon._process.StandardError.ReadToEnd() : "it says nothing";
        daemon.Dispose();
        throw new InvalidOperationException($"qemu-storage-daemon did not open the image: {reason}");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_process.HasExited)
            _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
        _directory.Dispose();
    }

    private static Process Start(string image, bool readOnly, TempDirectory directory)
    {
        ProcessStartInfo start = new("qemu-storage-daemon") { RedirectStandardError = true };
        foreach (string word in Nodes(image, readOnly))
            start.ArgumentList.Add(word);
        start.ArgumentList.Add("--pidfile");
        start.ArgumentList.Add(directory.File("ready"));
        return Process.Start(start) ?? throw new InvalidOperationException("qemu-storage-daemon did not start");
    }

    // A node alone takes no permissions; an export does.
    private static string[] Nodes(string image, bool readOnly)
    {
        string access = readOnly ? "on" : "off";
        string socket = Path.Combine(Path.GetDirectoryName(image)!, "nbd.sock");
        return
        [
            "--blockdev", $"driver=qcow2,node-name=top,read-only={access},file.driver=file,file.filename={image}",
            "--nbd-server", $"addr.type=unix,addr.path={socket}",
            "--export", $"type=nbd,id=nbd,node-name=top,writable={(readOnly ? "off" : "on")}",
        ];
    }
}
