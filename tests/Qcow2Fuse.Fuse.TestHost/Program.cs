// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Testing.Fuse;

namespace Qcow2Fuse.Fuse.TestHost;

/// <summary>
/// Mounts one file in memory: MOUNTPOINT SIZE [-o word[,word]]. The words are those of MountSpec, and file (the
/// root is the file), uring, stop (end without an unmount) and uid=N. Prints "ready" when the mount answers;
/// exits with 0 after SIGTERM or an unmount and with 32 when it could not mount.
/// </summary>
internal static class Program
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(1);

    private static int Main(string[] arguments)
    {
        try
        {
            return Serve(arguments);
        }
        catch (FuseMountException error)
        {
            Console.Error.WriteLine($"{error.Error}: {error.Message}");
            return 32;
        }
    }

    private static int Serve(string[] arguments)
    {
        MountSpec spec = new() { MountPoint = arguments[0], Source = "memory, file" };
        FuseServerOptions options = new();
        bool rootIsFile = false;
        bool stopOnly = false;
        uint uid = 0;
        string[] words = arguments.Length > 3 ? arguments[3].Split(',') : [];
        foreach (string word in words)
        {
            string[] parts = word.Split('=', 2);
            if (word == "file")
                rootIsFile = true;
            else if (word == "uring")
                options = options with { Uring = true };
            else if (word == "stop")
                stopOnly = true;
            else if (parts[0] == "uid")
                uid = uint.Parse(parts[1], CultureInfo.InvariantCulture);
            else if (!spec.TryApply(parts[0], parts.ElementAtOrDefault(1), out spec))
                throw new ArgumentException($"unknown word {word}", nameof(arguments));
        }

        long size = long.Parse(arguments[1], CultureInfo.InvariantCulture);
        using MemoryFileSystem fileSystem = new(size, rootIsFile, uid);
        return Serve(spec, options, fileSystem, stopOnly);
    }

    private static int Serve(MountSpec spec, FuseServerOptions options, MemoryFileSystem fileSystem, bool stopOnly)
    {
        TaskCompletionSource signalled = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using PosixSignalRegistration registration = PosixSignalRegistration.Create(
            PosixSignal.SIGTERM,
            context =>
            {
                context.Cancel = true;
                signalled.TrySetResult();
            });
        using FuseMount mount = FuseMount.Mount(spec);
        using FuseServer server = new(mount.OpenTransport(), fileSystem, options);
        server.Start();
        if (!server.WaitForInit(Patience))
        {
            Console.Error.WriteLine("the kernel did not begin");
            return 2;
        }

        if (server.UringRefusal is not null)
            Console.Error.WriteLine($"no io_uring: {server.UringRefusal}");
        mount.TryRaiseReadAhead();
        Console.WriteLine("ready");
        Task.WaitAny(server.Ended, signalled.Task);
        if (stopOnly)
            server.Stop();
        else
            mount.Unmount(lazy: true);
        return server.WaitForEnd(Patience) ? 0 : 3;
    }
}
