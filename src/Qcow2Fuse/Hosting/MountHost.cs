// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block;
using Qcow2Fuse.Commands;
using Qcow2Fuse.Control;
using Qcow2Fuse.Fuse;
using Qcow2Fuse.Output;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// The life of one mount: open the image, mount, serve until a signal or an unmount, flush, close. The image is open
/// before anything is mounted, so a failure leaves no mount behind.
/// </summary>
internal sealed class MountHost : IDisposable
{
    /// <summary>How long those who have files open are waited for after a signal.</summary>
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan InitTimeout = TimeSpan.FromSeconds(30);

    private readonly MountSettings _settings;
    private readonly ILogger _logger;
    private readonly ServiceReporter _reporter;
    private readonly ImageSet _images;
    private readonly HostEvents _events = new(hangupStops: !BackgroundStart.IsChild && !ServiceNotifier.IsPresent);

    private MountHost(MountSettings settings, ImageSet images, ServiceReporter reporter, ILogger logger)
    {
        _reporter = reporter;
        _settings = settings;
        _images = images;
        _logger = logger;
    }

    /// <summary>Mounts and serves until the end.</summary>
    /// <param name="settings">What to mount, with source and directory.</param>
    /// <param name="logger">The daemon's log.</param>
    /// <param name="ready">Called with a line for the user once the mount answers.</param>
    /// <returns>The exit code.</returns>
    /// <exception cref="BlockException">The image cannot be opened.</exception>
    /// <exception cref="FuseMountException">It cannot be mounted.</exception>
    public static int Run(MountSettings settings, ILogger logger, Action<string> ready)
    {
        string source = Path.GetFullPath(settings.Source!);
        string directory = Path.GetFullPath(settings.Directory!);

        // The first look at the source may already take long.
        using ServiceReporter reporter = new(logger);
        if (Directory.Exists(source))
            ImageDirectory.RefuseUnder(directory, source);
        int exitCode;
        using (MountHost host = new(settings, ImageSet.Open(settings, source, logger), reporter, logger))
            exitCode = host.Run(directory, ready);
        if (BackgroundStart.IsPrivate)
            PrivateMount.RemoveDirectory(directory);
        return exitCode;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        try
        {
            _images.Dispose();
        }
        catch (BlockException exception)
        {
            // Standard error of a daemon leads nowhere; its log does not.
            HostLog.LastFlushFailed(_logger, _images.Path, exception.Message);
            throw;
        }
        finally
        {
            _events.Dispose();
        }
    }

    private int Run(string directory, Action<string> ready)
    {
        foreach (ImageMessage message in _images.Messages)
            HostLog.OpenMessage(_logger, message.Hint is null
                ? message.Text : $"{message.Text} (hint: {message.Hint})");

        // A daemon inside its own mount, or inside a directory mounted over, could wait for itself.
        Environment.CurrentDirectory = "/";
        using FuseMount mount = FuseMount.Mount(MountRequest.From(_settings, _images, directory));
        TreeContext context = new(_settings, _logger);
        _images.CreateNodes(context, rootIsFile: mount.IsFile);
        TreeFileSystem fileSystem = new(context, _images);
        using FuseServer server = new(mount.OpenTransport(), fileSystem, new FuseServerOptions
        {
            Workers = _settings.Threads > 0 ? _settings.Threads : new FuseServerOptions().Workers,
            Uring = _settings.Transport == FuseTransportChoice.Uring,
            WritebackCache = _settings.Writeback,

            // With O_DIRECT serving then needs little memory, and is less likely to wait for some where there is none.
            PopulateBuffers = _settings.Cache is CacheMode.None or CacheMode.DirectSync,
            MapException = fileSystem.OnFailure,
            OnUnused = () => _events.Post(HostEvent.Unused),
        });
        context.Invalidator = server.Invalidator;

        // Whoever sees the mount answer finds the socket.
        using ControlSocket? control = ControlSocket.TryOpen(new ControlHost(_images, context, mount, server), _logger);
        server.Start();
        if (!server.WaitForInit(InitTimeout))
        {
            bool refused = server.UringFailure < 0;
            throw new CommandException(
                ExitCode.MountFailed,
                $"{directory}: {(refused ? "the kernel refuses its own io_uring" : "the mount does not answer")}",
                refused ? "-o transport=fuse" : null);
        }

        if (server.UringRefusal is { } reason)
            HostLog.WithoutUring(_logger, reason);
        _ = mount.TryRaiseReadAhead();

        HostLog.Mounted(_logger, _images.Description, mount.MountPoint);
        _reporter.Ready(server, $"{_images.Description} on {mount.MountPoint}");
        if (TryAnnounce(ready, _images.Description))
            Serve(mount, server);
        Stop(mount, server);

        // What was asked for over it is done with open images.
        control?.Dispose();
        return Close();
    }

    /// <summary>Returns when the mount has gone or should go.</summary>
    private void Serve(FuseMount mount, FuseServer server)
    {
        _events.Watch(server.Ended);
        while (true)
        {
            switch (_events.Take())
            {
                case HostEvent.Stop or HostEvent.Ended:
                    return;
                case HostEvent.Unused when _settings.IdleExit && TryUnmountUnused(mount):
                    return;
                case HostEvent.Report:
                    HostStatistics.Write(_images.Current(), _logger);
                    break;
                case HostEvent.Reload:
                    HostLog.Reloaded(_logger);
                    _reporter.Reloaded();
                    break;
            }
        }
    }

    /// <summary>False if somebody uses the mount again, or stands in it.</summary>
    private bool TryUnmountUnused(FuseMount mount)
    {
        try
        {
            mount.Unmount(lazy: false);
            return true;
        }
        catch (FuseMountException exception)
        {
            HostLog.StaysMounted(_logger, mount.MountPoint, exception.Message);
            return false;
        }
    }

    /// <summary>False if whoever waited for the start has gone, and the mount with him.</summary>
    private bool TryAnnounce(Action<string> ready, string status)
    {
        try
        {
            ready(status);
            return true;
        }
        catch (IOException exception)
        {
            HostLog.Stopping(_logger, exception.Message);
            return false;
        }
    }

    /// <summary>Takes the mount away and lets requests under way finish.</summary>
    private void Stop(FuseMount mount, FuseServer server)
    {
        _reporter.Stopping();
        if (server.Ended.IsCompleted)
            return;
        try
        {
            mount.Unmount(lazy: true);
        }
        catch (FuseMountException exception)
        {
            // Nobody else will unmount it now, and so its end is not waited for.
            HostLog.UnmountFailed(_logger, mount.MountPoint, exception.Message);
            server.Stop();
            return;
        }

        // Files that are still open keep the session alive; after the grace, or a second signal, they get errors.
        _events.Watch(server.Ended);
        HostEvent happened;
        do
            happened = _events.Take(Grace);
        while (happened is HostEvent.Reload or HostEvent.Report or HostEvent.Unused);
        server.Stop();
    }

    private int Close()
    {
        try
        {
            _images.Flush();
        }
        catch (BlockException exception)
        {
            HostLog.LastFlushFailed(_logger, _images.Path, exception.Message);
            return ExitCode.System;
        }

        HostLog.Unmounted(_logger, _images.Path);
        return ExitCode.Success;
    }
}
