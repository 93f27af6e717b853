// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Service;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Hosting.Restart;

/// <summary>
/// Makes a mount outlive its process: the service manager keeps the descriptors of its session, of its image files and
/// of a memory that says how things stand, and gives them to the next process, which goes on with the mount.
/// </summary>
internal sealed class MountKeeper : IDisposable
{
    private readonly MountSettings _settings;
    private readonly ILogger _logger;
    private readonly string _source;
    private readonly KeptDescriptors? _kept;
    private readonly RestartState _state;
    private readonly RestartFacts? _facts;
    private readonly Dictionary<string, int> _numbers = new(StringComparer.Ordinal);
    private bool _isKept;

    private MountKeeper(MountSettings settings, string source, KeptDescriptors? kept, ILogger logger)
    {
        _settings = settings;
        _source = source;
        _logger = logger;
        _kept = kept;
        _state = kept?.State ?? RestartState.Create();
        _facts = kept?.Facts;
        foreach ((int number, KeptFile file) in kept?.Files ?? [])
        {
            Files.Add(file);
            _numbers[file.Key] = number;
        }

        MayHaveLost = kept is not null && _state.BeginGeneration();
    }

    /// <summary>Whether a mount of an earlier process goes on.</summary>
    public bool Resumes => _kept is not null;

    /// <summary>Whether the earlier process died before everything was durable that it had acknowledged.</summary>
    public bool MayHaveLost { get; }

    /// <summary>Whether the service manager has what the next process needs.</summary>
    public bool IsKept => _isKept;

    /// <summary>Which process since the mount this is.</summary>
    public uint Generation => _state.Generation;

    /// <summary>Handles of generations before this one are broken.</summary>
    public uint BrokenBelow => _state.BrokenBelow;

    /// <summary>Which nodes are open for writing, or were when an earlier process ended.</summary>
    public WrittenNodes WrittenNodes => _state.WrittenNodes;

    /// <summary>As <see cref="RestartState.NewerRanges"/>.</summary>
    public NewerRanges? NewerRanges => _state.NewerRanges;

    /// <summary>The image files.</summary>
    public FileKeeper Files { get; } = new();

    /// <summary>What the kernel agreed upon with an earlier process; null for a new mount.</summary>
    public FuseResumption? Resumption => Resumes ? _state.Resumption : null;

    /// <summary>
    /// Looks at what the service manager has kept and at what it can keep. What was kept and is of no use any more is
    /// given up, and its mount ends.
    /// </summary>
    /// <returns>Null for a mount that ends with its process; the log says why, if the settings want another.</returns>
    public static MountKeeper? Open(MountSettings settings, string source, string directory, ILogger logger)
    {
        KeptDescriptors? kept = KeptDescriptors.Take();
        if (kept is not null && !IsSame(kept.Facts, settings, source, directory))
        {
            HostLog.NotResumed(logger, kept.Facts?.MountPoint ?? directory, kept.Facts is null
                ? "what was kept of it is not complete" : "the settings have changed");
            kept.GiveUp();
            kept = null;
        }

        if (!settings.Restartable)
            return null;
        string? refusal = kept is null ? RefusalOf(settings, source, directory) : null;
        if (refusal is null)
            return new MountKeeper(settings, source, kept, logger);
        HostLog.NotRestartable(logger, refusal);
        return null;
    }

    /// <summary>The disk, with its changes counted.</summary>
    public BlockDevice Watch(BlockDevice device) =>
        device.IsReadOnly ? device : new UnflushedFilter(device, _state);

    /// <summary>Mounts, or goes on with the mount.</summary>
    /// <exception cref="FuseMountException">It cannot be mounted, or was unmounted meanwhile.</exception>
    public FuseMount Mount(MountSpec spec)
    {
        if (_kept is null || _facts is null)
            return FuseMount.Mount(spec);
        return FuseMount.Resume(_facts.MountPoint, _facts.Device, _facts.IsFile, _kept.Session)
            ?? throw new FuseMountException(FuseMountError.NotMounted, $"{_facts.MountPoint}: not mounted");
    }

    /// <summary>The way to the requests of the mount.</summary>
    public DevFuseTransport OpenTransport(FuseMount mount) => mount.OpenTransport(_kept?.Workers ?? []);

    /// <summary>Gives the service manager what the next process needs. To be called once INIT has been answered.
    /// </summary>
    public void Keep(FuseMount mount, DevFuseTransport transport, FuseServer server)
    {
        Files.DropUnused();
        if (ObstacleOf(mount, server, transport) is { } obstacle)
        {
            HostLog.NotRestartable(_logger, obstacle);
            return;
        }

        List<(int Number, KeptFile File)> files = [];
        int next = _numbers.Values.DefaultIfEmpty(-1).Max() + 1;
        foreach (KeptFile file in Files.OpenFiles)
            files.Add((_numbers.TryGetValue(file.Key, out int number) ? number : next++, file));
        _state.Resumption = server.Session.Resumption;
        bool fits = _state.TryWriteFacts(new RestartFacts(
            _source, mount.MountPoint, mount.Device, mount.IsFile, _settings.Fingerprint,
            [.. files.Select(static one => (one.Number, one.File.Key, one.File.Path))]));
        if (!fits)
        {
            HostLog.NotRestartable(_logger, "the chain of images is too long");
            return;
        }

        // What the chain needs no more.
        foreach (string key in _numbers.Keys.Except(files.Select(static one => one.File.Key)).ToArray())
        {
            _ = _numbers.Remove(key, out int number);
            KeptDescriptors.Forget([KeptDescriptors.FileName(number)]);
        }

        try
        {
            Store(transport, server, files);
            _isKept = true;
        }
        catch (SocketException exception)
        {
            HostLog.NotRestartable(_logger, $"the service manager does not hear: {exception.Message}");
        }
    }

    /// <summary>From now on everything is left as it is for the next process.</summary>
    public void HandOver(FuseMount mount)
    {
        mount.Leave();
        Files.LeaveLocks();
    }

    /// <summary>The mount ends: the service manager is to forget it.</summary>
    public void Forget()
    {
        _isKept = false;
        KeptDescriptors.ForgetAll(_numbers.Values);
    }

    /// <inheritdoc/>
    public void Dispose() => _state.Dispose();

    private void Store(DevFuseTransport transport, FuseServer server, List<(int Number, KeptFile File)> files)
    {
        if (!Resumes)
        {
            ServiceNotifier.Store(KeptDescriptors.StateName, [_state.Descriptor]);
            ServiceNotifier.Store(KeptDescriptors.SessionName, [transport.Session]);
        }

        foreach ((int number, KeptFile file) in files)
        {
            if (!_numbers.TryAdd(file.Key, number))
                continue;
            ServiceNotifier.Store(KeptDescriptors.FileName(number), [file.Descriptor]);
        }

        // Without FUSE_HAS_RESEND nothing brings back what was read from them: their end tells whoever waits.
        int[] workers = [.. transport.Clones.Except(_kept?.Workers ?? [])];
        if (server.Session.Resumption.CanResend && workers.Length > 0)
            ServiceNotifier.Store(KeptDescriptors.WorkerName, workers);
    }

    private static bool IsSame(RestartFacts? facts, MountSettings settings, string source, string directory) =>
        facts is not null && settings.Restartable
        && string.Equals(facts.Source, source, StringComparison.Ordinal)
        && string.Equals(facts.Settings, settings.Fingerprint, StringComparison.Ordinal)
        && string.Equals(MountPathOf(directory), facts.MountPoint, StringComparison.Ordinal)
        && string.Equals(
            MountTable.FindAt(facts.MountPoint)?.Device, facts.Device, StringComparison.Ordinal);

    private static string MountPathOf(string directory) => MountPoint.Resolve(directory);

    /// <summary>Why a mount cannot outlive its process; null if nothing speaks against it yet.</summary>
    private static string? RefusalOf(MountSettings settings, string source, string directory)
    {
        if (!ServiceNotifier.IsPresent)
        {
            return "there is no service manager to keep it (hint: start it from a unit with FileDescriptorStoreMax=, "
                + "such as qcow2fuse.service)";
        }

        if (ServiceNotifier.StoreCapacity == 0)
            return "the service manager keeps nothing for this unit (hint: FileDescriptorStoreMax=512)";
        if (settings.AutoUnmount)
            return "auto_unmount ends it with the daemon";
        if (settings.IdleExit)
            return "idle_exit needs to know who has files open";
        if (LinuxPath.IsDirectory(source))
            return "it shows a directory of images";
        return IsBelow(source, directory) ? "it covers its own image" : null;
    }

    private string? ObstacleOf(FuseMount mount, FuseServer server, DevFuseTransport transport)
    {
        if (mount.Device.Length == 0)
            return "it is not in the list of mounts";
        if (Files.OpenFiles.FirstOrDefault(file => IsCovered(file, mount.MountPoint)).Path is { } covered)
            return $"it covers {Printable.Text(covered)}";
        if (transport.Clones.Count < server.Activity.Workers && !server.Session.Resumption.CanResend)
            return "requests in work would wait for ever (hint: it needs access to /dev/fuse, or Linux 6.9)";
        int needed = 2 + transport.Clones.Count + Files.OpenFiles.Count;
        return ServiceNotifier.StoreCapacity is { } capacity && capacity < needed
            ? string.Create(
                CultureInfo.InvariantCulture,
                $"the service manager keeps only {capacity} descriptors (hint: FileDescriptorStoreMax={needed})")
            : null;
    }

    /// <summary>Whether the next process would look for a file in the mount that it is to serve.</summary>
    private static bool IsCovered(KeptFile file, string mountPoint)
    {
        string link = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{file.Descriptor}");
        string real = LinuxPath.LinkTarget(link) ?? file.Path;
        return IsBelow(file.Path, mountPoint) || IsBelow(real, mountPoint);
    }

    /// <summary>Whether a path is that of a mount point, or leads through it.</summary>
    private static bool IsBelow(string path, string mountPoint)
    {
        string full = LinuxPath.Full(path);
        string top = LinuxPath.Full(mountPoint).TrimEnd('/');
        return string.Equals(full, top, StringComparison.Ordinal)
            || full.StartsWith(top + "/", StringComparison.Ordinal);
    }
}
