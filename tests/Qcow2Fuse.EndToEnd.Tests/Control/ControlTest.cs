// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.EndToEnd.Tests.Control;

/// <summary>A test of commands on mounted images, each a process of its own.</summary>
public abstract class ControlTest : MountTest
{
    private const string SocketDirectory = "/run/qcow2fuse";

    /// <summary>Mounts an image; dispose what is returned.</summary>
    protected MountedImage Start(string image, params string[] options) =>
        MountedImage.Start(image, PathOf("mnt"), options);

    /// <summary>The control socket of a daemon of root.</summary>
    protected static string SocketOf(int process) => Path.Combine(
        SocketDirectory, string.Create(CultureInfo.InvariantCulture, $"{process}.sock"));

    /// <summary>What a daemon answers to a GET.</summary>
    protected static string Get(int process, string path) => Tool(
        "curl", "-sS", "--fail", "--max-time", "20", "--unix-socket", SocketOf(process), "http://localhost" + path);

    /// <summary>The names of a process's threads.</summary>
    protected static string[] ThreadsOf(int process) =>
    [
        .. Directory.EnumerateDirectories($"/proc/{process}/task")
            .Select(static task => File.ReadAllText(task + "/comm").Trim()),
    ];

    /// <summary>The disk as it was in a snapshot, read by qemu-img.</summary>
    protected byte[] DiskOf(string image, string snapshot)
    {
        string raw = PathOf("snapshot.raw");
        QemuTools.Img("convert", "-l", $"snapshot.name={snapshot}", "-O", "raw", image, raw);
        return File.ReadAllBytes(raw);
    }

    /// <summary>Fails unless qemu-img finds an image sound.</summary>
    protected static void ShouldBeSound(string image) => QemuTools.Img("check", "-q", image);
}
