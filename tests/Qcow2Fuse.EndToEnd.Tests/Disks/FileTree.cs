// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.EndToEnd.Tests.Disks;

/// <summary>
/// Thousands of files of this machine's own system, and an ext4 disk that holds them: real content, made once for all
/// tests that want it.
/// </summary>
public sealed class FileTree : IDisposable
{
    private const int FilesMax = 4000;
    private const int FileBytesMax = 200_000;
    private const long TreeBytesMax = 40L << 20;

    private readonly TempDirectory _directory = new();

    /// <summary>Copies the tree.</summary>
    public FileTree()
    {
        Root = _directory.File("tree");
        CopySystemFiles(Root);
    }

    /// <summary>The directory that holds the files.</summary>
    public string Root { get; }

    /// <summary>A directory for what tests make of it.</summary>
    public string Scratch => _directory.Path;

    /// <summary>
    /// A raw disk of 64 MiB with the tree in an ext4 file system; made at the first call.
    /// </summary>
    public string RawDisk()
    {
        string disk = _directory.File("linux.raw");
        if (!File.Exists(disk))
        {
            QemuTools.RequireTool("mke2fs");
            using (FileStream file = File.Create(disk))
                file.SetLength(64 << 20);
            ProcessRunner.Run("mke2fs", ["-q", "-F", "-t", "ext4", "-N", "8192", "-d", Root, disk]).ShouldSucceed();
        }

        return disk;
    }

    /// <inheritdoc/>
    public void Dispose() => _directory.Dispose();

    private static void CopySystemFiles(string root)
    {
        EnumerationOptions walk = new()
        {
            RecurseSubdirectories = true,
            IgnoreInaccessible = true,
            AttributesToSkip = FileAttributes.ReparsePoint | FileAttributes.Device,
        };
        int files = 0;
        long bytes = 0;
        foreach (string start in (string[])["/etc", "/usr/share", "/usr/lib"])
        {
            foreach (string path in Directory.EnumerateFiles(start, "*", walk))
            {
                long length = new FileInfo(path).Length;
                if (length > FileBytesMax)
                    continue;
                if (files == FilesMax || bytes + length > TreeBytesMax)
                    return;
                string copy = Path.Combine(root, path[1..]);
                Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
                File.Copy(path, copy);
                files++;
                bytes += length;
            }
        }
    }
}
