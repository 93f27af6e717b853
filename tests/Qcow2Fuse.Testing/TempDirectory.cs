// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing;

/// <summary>A fresh directory that is removed with all it holds when disposed.</summary>
public sealed class TempDirectory : IDisposable
{
    /// <summary>Creates the directory below the system's directory for temporary files.</summary>
    public TempDirectory()
    {
        Path = Directory.CreateTempSubdirectory("qcow2fuse-test-").FullName;
    }

    /// <summary>The absolute path of the directory.</summary>
    public string Path { get; }

    /// <summary>The absolute path of a file in the directory.</summary>
    public string File(string name) => System.IO.Path.Combine(Path, name);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (Directory.Exists(Path))
            Directory.Delete(Path, recursive: true);
    }
}
