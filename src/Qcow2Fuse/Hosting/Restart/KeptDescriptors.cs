// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Net.Sockets;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Service;

namespace Qcow2Fuse.Hosting.Restart;

/// <summary>What the service manager has kept of a mount.</summary>
internal sealed class KeptDescriptors
{
    private const string Prefix = "qcow2fuse-";
    private const string FilePrefix = Prefix + "file-";

    private readonly List<int> _all;

    private KeptDescriptors(RestartState? state, RestartFacts? facts, int session, List<int> all)
    {
        State = state;
        Facts = facts;
        Session = session;
        _all = all;
    }

    /// <summary>Name of the <see cref="RestartState"/> in the store.</summary>
    public static string StateName => Prefix + "state";

    /// <summary>Name of the session's own descriptor in the store.</summary>
    public static string SessionName => Prefix + "session";

    /// <summary>Name of the workers' descriptors in the store.</summary>
    public static string WorkerName => Prefix + "worker";

    /// <summary>The state, or null.</summary>
    public RestartState? State { get; }

    /// <summary>What the mount is; null if anything is missing without which it cannot go on.</summary>
    public RestartFacts? Facts { get; }

    /// <summary>The session's own descriptor, or −1.</summary>
    public int Session { get; }

    /// <summary>The workers' descriptors.</summary>
    public List<int> Workers { get; } = [];

    /// <summary>The image files with their numbers.</summary>
    public List<(int Number, KeptFile File)> Files { get; } = [];

    /// <summary>Name of an image file in the store.</summary>
    public static string FileName(int number) => string.Create(CultureInfo.InvariantCulture, $"{FilePrefix}{number}");

    /// <summary>Takes what was passed on to this process; null if nothing was.</summary>
    public static KeptDescriptors? Take()
    {
        List<(string Name, int Descriptor)> inherited = InheritedDescriptors.Take(Prefix);
        if (inherited.Count == 0)
            return null;
        RestartState? state = null;
        int session = -1;
        List<int> workers = [];
        List<int> all = [];
        Dictionary<string, int> files = new(StringComparer.Ordinal);
        foreach ((string name, int descriptor) in inherited)
        {
            bool isState = string.Equals(name, StateName, StringComparison.Ordinal);
            if (isState && state is null)
            {
                state = RestartState.Open(descriptor);
                continue;
            }

            all.Add(descriptor);
            if (string.Equals(name, SessionName, StringComparison.Ordinal))
                session = descriptor;
            else if (string.Equals(name, WorkerName, StringComparison.Ordinal))
                workers.Add(descriptor);
            else if (name.StartsWith(FilePrefix, StringComparison.Ordinal))
                files[name] = descriptor;
        }

        RestartFacts? facts = null;
        bool isWhole = session >= 0 && state is not null && state.TryReadFacts(out facts);
        KeptDescriptors kept = new(state, isWhole ? facts : null, session, all);
        kept.Workers.AddRange(workers);
        foreach ((int number, string key, string path) in facts?.Files ?? [])
        {
            if (files.TryGetValue(FileName(number), out int descriptor))
                kept.Files.Add((number, new KeptFile(key, path, descriptor)));
        }

        return kept;
    }

    /// <summary>Tells the service manager to close all it keeps of a mount.</summary>
    /// <param name="files">Numbers of the image files.</param>
    public static void ForgetAll(IEnumerable<int> files) =>
        Forget([StateName, SessionName, WorkerName, .. files.Select(FileName)]);

    /// <summary>Tells the service manager to close what it keeps under some names.</summary>
    public static void Forget(IEnumerable<string> names)
    {
        try
        {
            foreach (string name in names)
                ServiceNotifier.Forget(name);
        }
        catch (SocketException)
        {
            // It closes them anyway when the service has ended.
            return;
        }
    }

    /// <summary>Ends the mount, and gives the locks of its image files back.</summary>
    public void GiveUp()
    {
        if (Facts is not null)
            FuseMount.Abort(Facts.MountPoint, Facts.Device);
        FileKeeper files = new();
        foreach ((_, KeptFile file) in Files)
        {
            files.Add(file);
            _all.Remove(file.Descriptor);
        }

        files.DropUnused();
        foreach (int descriptor in _all)
            _ = LinuxFile.Close(descriptor);
        State?.Dispose();
        ForgetAll(Files.Select(static one => one.Number));
    }
}
