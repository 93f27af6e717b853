// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The program as a service of systemd, with a notification socket of the test.</summary>
public sealed class ServiceTests : MountTest
{
    private static readonly TimeSpan NotifyTimeout = TimeSpan.FromSeconds(20);

    [SkippableFact]
    public void The_service_manager_hears_of_start_and_stop()
    {
        string mountPoint = NewMountPoint();
        string image = NewImage();
        using Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        socket.ReceiveTimeout = (int)NotifyTimeout.TotalMilliseconds;
        socket.Bind(new UnixDomainSocketEndPoint(PathOf("notify")));
        using Process daemon = Start(image, mountPoint);

        string[] first = Receive(socket);
        Assert.Contains("READY=1", first);
        Assert.True(File.Exists(RawFileOf(image, mountPoint)), "ready before the file answers");

        Signal(daemon.Id, "TERM");
        Assert.Contains("STOPPING=1", Receive(socket));
        Assert.True(daemon.WaitForExit(NotifyTimeout), "the daemon does not end");
        Assert.Equal(0, daemon.ExitCode);
    }

    [SkippableFact]
    public void The_unit_has_no_fault_systemd_could_see_and_hides_no_mount()
    {
        string? unit = FindProgram() is { } program
            ? Path.GetFullPath(Path.Combine(Path.GetDirectoryName(program)!, "../qcow2fuse.service"))
            : null;
        QemuTools.Require(File.Exists(unit), "qcow2fuse.service is not beside the program's directory");
        string[] settings = [.. File.ReadLines(unit!)
            .Where(static line => !line.StartsWith('#') && line.Contains('=', StringComparison.Ordinal))
            .Select(static line => line[..line.IndexOf('=', StringComparison.Ordinal)])];
        Assert.Contains("ExecStart", settings);
        Assert.Empty(settings.Intersect(
            [
                "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectSystem", "ProtectHome", "ReadOnlyPaths",
                "ReadWritePaths", "InaccessiblePaths", "DynamicUser", "ProtectKernelTunables", "ProtectProc",
                "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "BindPaths", "BindReadOnlyPaths",
                "TemporaryFileSystem", "RootDirectory", "RootImage", "MountFlags", "MemoryDenyWriteExecute",
            ],
            StringComparer.Ordinal));
    }

    private Process Start(string image, string mountPoint)
    {
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        ProcessStartInfo start = new(program!) { UseShellExecute = false };
        foreach (string argument in (string[])["mount", "--foreground"])
            start.ArgumentList.Add(argument);
        start.Environment["NOTIFY_SOCKET"] = PathOf("notify");
        start.Environment["QCOW2FUSE_SOURCE"] = image;
        start.Environment["QCOW2FUSE_DIRECTORY"] = mountPoint;
        return Process.Start(start)!;
    }

    private static string[] Receive(Socket socket)
    {
        byte[] message = new byte[4096];
        return Encoding.UTF8.GetString(message, 0, socket.Receive(message)).Split('\n');
    }
}
