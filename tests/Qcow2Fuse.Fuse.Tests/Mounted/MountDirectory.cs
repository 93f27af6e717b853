// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Mounting;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>A directory of a test's own, with a place to mount on in it.</summary>
internal sealed class MountDirectory : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("qcow2fuse-fuse-");

    /// <param name="file">Whether to mount on a file.</param>
    public MountDirectory(bool file = false)
    {
        MountPoint = Path.Combine(_directory.FullName, "mount point");
        if (file)
            File.WriteAllBytes(MountPoint, []);
        else
            Directory.CreateDirectory(MountPoint);
    }

    public string MountPoint { get; }

    /// <summary>Whether something is mounted there.</summary>
    public bool IsMounted => MountTable.FindAt(MountPoint) is not null;

    /// <summary>A path beside the mount point.</summary>
    public string Beside(string name) => Path.Combine(_directory.FullName, name);

    public void Dispose() => _directory.Delete(recursive: true);
}
