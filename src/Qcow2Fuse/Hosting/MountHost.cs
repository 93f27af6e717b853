// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block;
using Qcow2Fuse.Commands;
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
    private readonly ServedImage _image;
    private readonly HostEvents _events = new(hangupStops: !BackgroundStart.IsChild && !ServiceNotifier.IsPresent);

    private MountHost(MountSettings settings, ServedImage image, ServiceReporter reporter, ILogger logger)
    {
        _reporter = reporter;
        _settings = settings;
        _image = image;
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
        string imagePath = Path.GetFullPath(settings.Source!);
        string directory = Path.GetFullPath(settings.Directory!);
        DateTime modified = File.GetLastWriteTimeUtc(imagePath);
        using ServiceReporter reporter = new(logger);
        int exitCode;
        using (MountHost host = new(settings, ServedImage.Open(settings, imagePath), reporter, logger))
            exitCode = host.Run(directory, modified, ready);
        if (BackgroundStart.IsPrivate)
            PrivateMount.RemoveDirectory(directory);
        return exitCode;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        try
        {
            _image.Dispose();
        }
        catch (BlockException exception)
        {
            // Standard error of a daemon leads nowhere; its log does not.
            HostLog.LastFlushFailed(_logger, _image.ImagePath, exception.Message);
            throw;
        }
        finally
        {
            _events.Dispose();
        }
    }

    private int Run(string directory, DateTime modified, Action<string> ready)
    {
        foreach (ImageMessage message in _image.Messages)
            HostLog.OpenMessage(_logger, message.Hint is null
                ? message.Text : $"{message.Text} (hint: {message.Hint})");

        // A daemon inside its own mount, or inside a directory mounted over, could wait for itself.
        Environment.CurrentDirectory = "/";
        using FuseMount mount = FuseMount.Mount(MountRequest.From(_settings, _image, directory));
        DiskFileSystem fileSystem = new(
            _image,
            rootIsFile: mount.IsFile,
            unmapsHoles: _settings.Discard != DiscardMode.Ignore,
            mayResize: _settings.Resize,
            FileOwnership.From(_settings),
            modified,
            _logger);
        using FuseServer server = new(mount.OpenTransport(), fileSystem, new FuseServerOptions
        {
            Workers = _settings.Threads > 0 ? _settings.Threads : new FuseServerOptions().Workers,
            WritebackCache = _settings.Writeback,
            MapException = fileSystem.OnFailure,
            OnUnused = () => _events.Post(HostEvent.Unused),
        });
        server.Start();
        if (!server.WaitForInit(InitTimeout))
            throw new CommandException(ExitCode.MountFailed, $"{directory}: the mount does not answer");
        _ = mount.TryRaiseReadAhead();

        string size = SizeText.Human(_image.Device.Length);
        HostLog.Mounted(_logger, _image.ImagePath, size, mount.MountPoint);
        _reporter.Ready(server, $"{Path.GetFileName(_image.ImagePath)} ({size}) on {mount.MountPoint}");
        if (TryAnnounce(ready, $"{Path.GetFileName(_image.ImagePath)} ({size})"))
            Serve(mount, server);
        Stop(mount, server);
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
            HostLog.UnmountFailed(_logger, mount.MountPoint, exception.Message);
        }

        // Files that are still open keep the session alive; after the grace, or a second signal, they get errors.
        _events.Watch(server.Ended);
        HostEvent happened;
        do
            happened = _events.Take(Grace);
        while (happened is HostEvent.Reload or HostEvent.Unused);
        server.Stop();
    }

    private int Close()
    {
        try
        {
            _image.Flush();
        }
        catch (BlockException exception)
        {
            HostLog.LastFlushFailed(_logger, _image.ImagePath, exception.Message);
            return ExitCode.System;
        }

        HostLog.Unmounted(_logger, _image.ImagePath);
        return ExitCode.Success;
    }
}
