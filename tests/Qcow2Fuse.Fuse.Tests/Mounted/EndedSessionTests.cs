// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Fuse.Transport;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>
/// The kernel gives the numbers of a mount that has gone to the next one. Who served it has not noticed yet, and leaves
/// what has its numbers alone. Nobody serves these mounts, and nothing in them is touched.
/// </summary>
public sealed class EndedSessionTests : IDisposable
{
    private const int Rounds = 10;

    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("qcow2fuse-ended-");

    [SkippableFact]
    public void WhoHasItsNumbersByNowIsNotUnmounted()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess && File.Exists("/dev/fuse"), "only root mounts");
        for (int round = 0; round < Rounds; round++)
        {
            using FuseMount gone = FuseMount.Mount(SpecOf("gone"));
            using DevFuseTransport session = gone.OpenTransport();
            Assert.True(session.IsConnected);
            Assert.NotEqual(-1, gone.Connection);
            Assert.Equal(0, MountRoot.Unmount(MountTable.FindAt(gone.MountPoint)!, lazy: true));
            using FuseMount next = FuseMount.Mount(SpecOf("next"));

            Assert.False(session.IsConnected);
            Assert.False(gone.IsMounted);
            Assert.Equal(-1, gone.Connection);
            gone.Unmount(lazy: false);
            gone.Dispose();
            Assert.True(next.IsMounted);
            next.Unmount(lazy: false);
            Assert.False(next.IsMounted);
        }
    }

    [SkippableFact]
    public void ASessionThatHasEndedHasNoMount()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess && File.Exists("/dev/fuse"), "only root mounts");
        using FuseMount gone = FuseMount.Mount(SpecOf("gone"));
        using DevFuseTransport session = gone.OpenTransport();
        Assert.Equal(gone.MountPoint, HandedMount.FindEntry(session.Session, path: null)?.MountPoint);
        Assert.Equal(0, MountRoot.Unmount(MountTable.FindAt(gone.MountPoint)!, lazy: true));
        using FuseMount next = FuseMount.Mount(SpecOf("next"));
        Assert.Null(HandedMount.FindEntry(session.Session, path: null));
    }

    public void Dispose()
    {
        Shell.Output(
            "for i in gone next; do umount -l \"$1/$i\" 2>/dev/null; done; rm -rf \"$1\"", _directory.FullName);
        GC.SuppressFinalize(this);
    }

    /// <summary>Both have one source, as two mounts of one image that is only read.</summary>
    private MountSpec SpecOf(string name) => new()
    {
        MountPoint = _directory.CreateSubdirectory(name).FullName,
        Source = "disk.qcow2",
        Subtype = "qcow2fuse-test",
    };
}
