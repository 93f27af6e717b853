// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Microsoft.Win32.SafeHandles;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Restart;

/// <summary>A test of mounts that outlive their daemons.</summary>
public abstract class RestartTest : MountTest
{
    private protected const int Block = 4096;

    private FakeManager? _manager;

    private protected FakeManager Manager => _manager!;

    private protected string Image { get; private set; } = "";

    private protected string MountPoint { get; private set; } = "";

    private protected string Raw => RawFileOf(Image, MountPoint);

    /// <summary>Mounts a new image under a manager.</summary>
    private protected void Begin(string size = "64M")
    {
        MountPoint = NewMountPoint();
        Image = NewImage(size);
        _manager = new FakeManager(PathOf("notify")) { Environment = { ["QCOW2FUSE_RESTARTABLE"] = "on" } };
        Start();
    }

    /// <summary>Starts the next daemon.</summary>
    private protected void Start(params string[] options)
    {
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        Manager.Start(program!, ["mount", "--foreground", .. options, Image, MountPoint]);
    }

    /// <summary>Restarts the daemon as an upgrade does.</summary>
    private protected void HandOver()
    {
        Assert.Equal(FakeManager.HandedOver, Manager.End("USR2"));
        Start();
    }

    /// <summary>Kills the daemon and starts the next one.</summary>
    private protected void Crash()
    {
        Manager.End("KILL");
        Start();
    }

    /// <summary>Ends the daemon, which unmounts; the image is sound then.</summary>
    private protected void Stop()
    {
        Assert.Equal(0, Manager.End("TERM"));
        Assert.False(IsMounted(MountPoint));
        QemuTools.Img("check", "-q", Image);
    }

    private protected SafeFileHandle Open() => File.OpenHandle(Raw, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);

    private protected static byte[] Bytes(byte value) => [.. Enumerable.Repeat(value, Block)];

    private protected static byte[] Read(SafeFileHandle file, long offset)
    {
        byte[] bytes = new byte[Block];
        Assert.Equal(Block, RandomAccess.Read(file, bytes, offset));
        return bytes;
    }

    /// <summary>Starts a tool that goes on beside the test.</summary>
    private protected static Process Launch(string program, params string[] arguments)
    {
        QemuTools.RequireTool(program);
        ProcessStartInfo start = new(ProcessRunner.Find(program)!)
        { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        return Process.Start(start)!;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing)
            _manager?.Dispose();
        base.Dispose(disposing);
    }
}
