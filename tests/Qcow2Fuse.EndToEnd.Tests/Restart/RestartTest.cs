// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Restart;

/// <summary>A test of mounts that outlive their daemons.</summary>
public abstract class RestartTest : MountTest
{
    private FakeManager? _manager;

    private protected FakeManager Manager => _manager!;

    private protected string Image { get; private set; } = "";

    private protected string MountPoint { get; private set; } = "";

    private protected string Raw => RawFileOf(Image, MountPoint);

    /// <summary>Mounts a new image under a manager.</summary>
    private protected void Begin() => Begin(NewImage());

    /// <summary>Mounts an image under a manager.</summary>
    private protected void Begin(string image, params (string Name, string Value)[] environment)
    {
        Prepare(image, environment);
        Start();
    }

    /// <summary>Makes a manager that is asked to keep the mount of an image.</summary>
    private protected void Prepare(string image, params (string Name, string Value)[] environment)
    {
        RequireMounting();
        QemuTools.RequireTool("bash");
        MountPoint = NewMountPoint();
        Image = image;
        _manager = new FakeManager(PathOf("notify")) { Environment = { ["QCOW2FUSE_RESTARTABLE"] = "on" } };
        foreach ((string name, string value) in environment)
            _manager.Environment[name] = value;
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
        Assert.Equal(137, Manager.End("KILL"));
        Start();
    }

    /// <summary>Ends the daemon, which unmounts; the image is sound then.</summary>
    private protected void Stop(bool check = true)
    {
        Assert.Equal(0, Manager.End("TERM"));
        Assert.False(IsMounted(MountPoint));
        if (check)
            QemuTools.Img("check", "-q", Image);
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
