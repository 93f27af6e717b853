// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block;
using Qcow2Fuse.Commands;
using Qcow2Fuse.Fuse;
using Qcow2Fuse.Output;

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
    private static readonly TimeSpan FlushAllowance = TimeSpan.FromMinutes(5);

    private readonly MountSettings _settings;
    private readonly ILogger _logger;
    private readonly ImageSet _images;
    private readonly StopSignals _signals = new();

    private MountHost(MountSettings settings, ImageSet images, ILogger logger)
    {
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
        if (Directory.Exists(source))
            ImageDirectory.RefuseUnder(directory, source);
        using MountHost host = new(settings, ImageSet.Open(settings, source, logger), logger);
        return host.Run(directory, ready);
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
            _signals.Dispose();
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
            WritebackCache = _settings.Writeback,
            MapException = fileSystem.OnFailure,
        });
        context.Invalidator = server.Invalidator;
        server.Start();
        if (!server.WaitForInit(InitTimeout))
            throw new CommandException(ExitCode.MountFailed, $"{directory}: the mount does not answer");
        _ = mount.TryRaiseReadAhead();

        HostLog.Mounted(_logger, _images.Description, mount.MountPoint);
        ServiceNotifier.Ready($"{_images.Description} on {mount.MountPoint}");
        if (TryAnnounce(ready, _images.Description))
            _signals.WaitFor(server.Ended);
        Stop(mount, server);
        return Close();
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
        ServiceNotifier.Stopping(FlushAllowance);
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
        _signals.WaitAgainFor(server.Ended, Grace);
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
