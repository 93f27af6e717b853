// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Control.Server;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Restart;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Schemes;
using Qcow2Fuse.Service;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Stacks;
using Qcow2Fuse.Start;

namespace Qcow2Fuse.Daemon;

/// <summary>
/// The life of one mount: open the image, mount, serve until a signal or an unmount, flush, close. The image is open
/// before anything is mounted, so a failure leaves no mount behind.
/// </summary>
internal sealed class MountHost : IDisposable
{
    /// <summary>How long those who have files open are waited for after a signal.</summary>
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(10);

    /// <summary>
    /// How long file systems inside the image are waited for before that; they are unmounted when nobody uses them. A
    /// unit has 90 s.
    /// </summary>
    private static readonly TimeSpan StackGrace = TimeSpan.FromSeconds(70);

    private static readonly TimeSpan GraceStep = TimeSpan.FromMilliseconds(500);

    /// <summary>How long the end of a process may take that others are tied to.</summary>
    private static readonly TimeSpan DeathLasts = TimeSpan.FromSeconds(1);

    private static readonly TimeSpan InitTimeout = TimeSpan.FromSeconds(30);

    private readonly MountSettings _settings;
    private readonly ILogger _logger;
    private readonly ServiceReporter _reporter;
    private readonly ImageSet _images;
    private readonly MountKeeper? _keeper;
    private readonly HostEvents _events;
    private readonly LastWord _lastWord;

    private MountHost(
        MountSettings settings, ImageSet images, ServiceReporter reporter, MountKeeper? keeper, LastWord lastWord,
        HostEvents events, ILogger logger)
    {
        _lastWord = lastWord;
        _events = events;
        _keeper = keeper;
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
        // Workers may wait for other threads, packers for instance, and none of them may wait for this mount when it
        // needs memory. All threads that this one starts inherit it; in the background it has it from its parent.
        _ = ServingThread.TrySetIOFlusher();
        string source = StorageSchemes.Of(settings.Source!).FullName(settings.Source!);
        string directory = LinuxPath.Full(settings.Directory!);

        // The first look at the source may already take long.
        using ServiceReporter reporter = new(logger);

        // Until a mount that goes on is served again, nobody may look at a path that could lead into it.
        using MountKeeper? keeper = MountKeeper.Open(settings, source, directory, logger);
        if (settings.MakesDirectory && keeper is not { Resumes: true })
            MakeDirectory(directory);
        if (keeper is null && LinuxPath.IsDirectory(source))
        {
            DirectoryPlace.RefuseOnFile(directory, source);
            DirectoryPlace.RefuseUnder(directory, source);
        }

        using LastWord lastWord = LastWord.Create();
        int exitCode;

        // A mount that is there already goes with a signal also while its image is opened; else that ends the start.
        HostEvents? early = keeper is { Resumes: true } ? Listen(settings) : null;
        ImageSet images = ImageSet.Open(settings, source, logger, keeper);
        using (MountHost host =
            new(settings, images, reporter, keeper, lastWord, early ?? Listen(settings), logger))
        {
            exitCode = host.Run(directory, ready);
        }

        // The files are closed: what could fail has been said by now.
        lastWord.Say(LastWordKind.Written);
        if (BackgroundStart.IsPrivate)
            PrivateMount.RemoveDirectory(directory);
        return exitCode;
    }

    private static void MakeDirectory(string directory)
    {
        try
        {
            MountDirectory.Make(directory);
        }
        catch (IOException exception)
        {
            throw new CommandException(ExitCode.MountFailed, exception.Message, inner: exception);
        }
    }

    private static HostEvents Listen(MountSettings settings) => new(
        hangupStops: !BackgroundStart.IsChild && !ServiceNotifier.IsPresent, handsOver: settings.Restartable);

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
            ReportLost(exception);
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
            HostLog.OpenMessage(_logger, Advice.For(message.Cause, Typed.Verb) is { } hint
                ? $"{message.Text} (hint: {hint})" : message.Text);

        // A daemon inside its own mount, or inside a directory mounted over, could wait for itself.
        Environment.CurrentDirectory = "/";
        MountSpec spec = MountRequest.From(_settings, _images, directory);
        using FuseMount mount = _keeper?.Mount(spec) ?? FuseMount.Mount(spec);
        TreeContext context = new(_settings, _logger)
        {
            Generation = _keeper?.Generation ?? 0,
            BrokenBelow = _keeper?.BrokenBelow ?? 0,
            WrittenNodes = _keeper?.WrittenNodes,
            NewerRanges = _keeper?.NewerRanges,
        };
        _images.CreateNodes(context, rootIsFile: mount.IsFile);
        if (_keeper is { Resumes: true })
            TreeRecall.Run(context);
        TreeFileSystem fileSystem = new(context, _images);
        DevFuseTransport transport = _keeper?.OpenTransport(mount) ?? mount.OpenTransport();
        using FuseServer server = new(transport, fileSystem, new FuseServerOptions
        {
            Resumption = _keeper?.Resumption,
            Workers = _settings.Threads > 0 ? _settings.Threads : new FuseServerOptions().Workers,
            Uring = _settings.Transport == FuseTransportChoice.Uring && _keeper is null,
            PopulateBuffers = _settings.PopulatesMemory,
            QueuesTransfers = _settings.IsDirect,
            MapException = fileSystem.OnFailure,
            OnUnused = () => _events.Post(HostEvent.Unused),
        });
        context.Invalidator = server.Invalidator;
        _lastWord.Serves(mount.Connection, mount.Source);

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
        _keeper?.Keep(mount, transport, server);

        // Who waits at a terminal does not wait for the log.
        bool isAwaited = TryAnnounce(ready, _images.Description);
        if (_settings.PopulatesMemory)
            BufferPool.Shared.Populate();
        ReportMounted(mount, context);
        _reporter.Ready(server, $"{_images.Description} on {mount.MountPoint}");
        if (isAwaited)
        {
            if (Serve(mount, server) == HostEvent.HandOver)
                return HandOver(mount, server);
        }

        Stop(mount, server, context);

        // What was asked for over it is done with open images.
        control?.Dispose();
        return Close();
    }

    private void ReportMounted(FuseMount mount, TreeContext context)
    {
        if (_keeper is not { Resumes: true })
        {
            HostLog.Mounted(_logger, _images.Description, mount.MountPoint);
            return;
        }

        HostLog.Resumed(_logger, mount.MountPoint);
        if (_keeper.MayHaveLost)
            HostLog.MayHaveLost(_logger, mount.MountPoint);

        // What the kernel has cached may be what was lost, and it may not have heard of the last changes.
        context.ForgetPages();
    }

    /// <summary>
    /// Leaves the mount to the next process: answers what is in work, and makes everything durable. Requests that come
    /// meanwhile wait in the kernel.
    /// </summary>
    private int HandOver(FuseMount mount, FuseServer server)
    {
        HostLog.HandsOver(_logger, mount.MountPoint);
        _reporter.Stopping(handsOver: true);
        server.Stop();
        try
        {
            _images.Flush();
        }
        catch (BlockException exception)
        {
            // The next process knows, as after a crash, and breaks the handles that may have lost something.
            ReportLost(exception);
        }

        _keeper!.HandOver(mount);
        return ExitCode.HandedOver;
    }

    /// <summary>Returns when the mount has gone or should go, or should be handed over.</summary>
    private HostEvent Serve(FuseMount mount, FuseServer server)
    {
        _events.Watch(server.Ended);
        UnusedMount unused = new(mount, server, _logger);
        while (true)
        {
            HostEvent happened = _events.Take(unused.Patience);
            switch (happened)
            {
                case HostEvent.Stop or HostEvent.Ended:
                    return happened;
                case HostEvent.HandOver when _keeper is { IsKept: true } && !server.Ended.IsCompleted:
                    return happened;
                case HostEvent.HandOver:
                    HostLog.CannotHandOver(_logger, mount.MountPoint);
                    break;
                case HostEvent.Unused or HostEvent.None when _settings.IdleExit && unused.TryUnmount():
                    return happened;
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
    private void Stop(FuseMount mount, FuseServer server, TreeContext context)
    {
        _reporter.Stopping();
        _keeper?.Forget();
        if (server.Ended.IsCompleted)
            return;
        using LoopUse loops = LoopUse.Of(mount.MountPoint);
        TimeSpan patience = loops.Exist ? StackGrace + Grace : Grace;
        Stopwatch since = Stopwatch.StartNew();
        try
        {
            if (!TryUnmountAtOnce(mount, patience))
            {
                WritePages(mount, context);
                mount.Unmount(lazy: true);
            }
        }
        catch (FuseMountException exception)
        {
            // Nobody else will unmount it now, and so its end is not waited for.
            HostLog.UnmountFailed(_logger, mount.MountPoint, exception.Message);
            WritePages(mount, context);
            server.Stop();
            return;
        }

        _events.Watch(server.Ended);
        AwaitUsers(loops, server, patience - since.Elapsed);
        if (!server.Ended.IsCompleted)
            WritePages(mount, context);
        server.Stop();
    }

    /// <summary>What programs have stored into mapped memory comes before the end.</summary>
    private void WritePages(FuseMount mount, TreeContext context)
    {
        if (!context.TryWritePages(Grace))
            HostLog.PagesAreLost(_logger, mount.MountPoint);
    }

    /// <summary>
    /// Files that are still open keep the session alive; after the grace, or a second signal, they get errors. What
    /// stands on loop devices has longer, but no longer than was said.
    /// </summary>
    private void AwaitUsers(LoopUse loops, FuseServer server, TimeSpan patience)
    {
        Stopwatch since = Stopwatch.StartNew();
        TimeSpan until = patience < Grace ? patience : Grace;
        long served = server.Activity.Served;
        while (since.Elapsed < until)
        {
            loops.BeginUnmount();
            HostEvent happened = _events.Take(GraceStep);
            bool isSameDeath = happened == HostEvent.Stop && BackgroundStart.IsTied && since.Elapsed < DeathLasts;
            if (happened is HostEvent.Ended || (happened is HostEvent.Stop && !isSameDeath))
                return;

            // Somebody else may unmount as well, and is seen only by what the device still writes.
            bool isBusy = loops.Exist && server.Activity.Served != served;
            served = server.Activity.Served;
            if (happened == HostEvent.None && (isBusy || loops.IsInUse()))
                until = since.Elapsed + Grace < patience ? since.Elapsed + Grace : patience;
        }
    }

    /// <summary>
    /// False where somebody uses the mount. Who that is can be seen only as long as the mount has a place, and is said
    /// at once, since everybody waits for him from now on.
    /// </summary>
    private bool TryUnmountAtOnce(FuseMount mount, TimeSpan patience)
    {
        try
        {
            mount.Unmount(lazy: false);
            return true;
        }
        catch (FuseMountException exception) when (exception.Error == FuseMountError.Busy)
        {
            HostLog.StillUsed(_logger, exception.Message, patience.TotalSeconds);
            _reporter.Waiting($"{exception.Message}; up to {patience.TotalSeconds} s");
            return false;
        }
    }

    private int Close()
    {
        try
        {
            _images.Flush();
        }
        catch (BlockException exception)
        {
            ReportLost(exception);
            return ExitCode.System;
        }

        HostLog.Unmounted(_logger, _images.Path);
        return ExitCode.Success;
    }

    /// <summary>In the log, and to whoever waits for the end.</summary>
    private void ReportLost(BlockException exception)
    {
        HostLog.LastFlushFailed(_logger, _images.Path, exception.Message);
        _lastWord.Say(LastWordKind.Lost, exception.Message);
    }
}
