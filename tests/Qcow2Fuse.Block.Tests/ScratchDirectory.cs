// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Tests;

/// <summary>A directory for the files of one test, removed with them.</summary>
internal sealed class ScratchDirectory : IDisposable
{
    private int _files;

    public string Path { get; } = Directory.CreateTempSubdirectory("qcow2fuse-block-").FullName;

    /// <summary>The path of a name in the directory.</summary>
    public string At(string name) => System.IO.Path.Combine(Path, name);

    /// <summary>The path of a new file of zeroes.</summary>
    public string NewFile(long length)
    {
        string path = At($"file{Interlocked.Increment(ref _files)}");
        using FileStream file = File.Create(path);
        file.SetLength(length);
        return path;
    }

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
