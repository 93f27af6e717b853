// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Mounts;

/// <summary>
/// Which process serves which mount. The kernel tells for every descriptor of /dev/fuse to which connection it belongs
/// (fuse_connection in /proc/PID/fdinfo), and a connection has the number of its mount's device. A service manager may
/// keep as many of them as the daemon has, which alone has a <see cref="LastWord"/>. Older kernels do not tell; there
/// the daemon says it in that. Other users' processes are not seen. Nothing that a process has open is touched.
/// </summary>
internal sealed class DaemonTable
{
    private const string DevicePath = "/dev/fuse";
    private const string ConnectionField = "fuse_connection";

    private readonly List<Candidate> _candidates = [];

    private DaemonTable()
    {
    }

    /// <summary>Looks at all processes.</summary>
    public static DaemonTable Read()
    {
        DaemonTable table = new();
        foreach (string directory in Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(directory), CultureInfo.InvariantCulture, out int id)
                && Look(directory, id) is { } candidate)
            {
                table._candidates.Add(candidate);
            }
        }

        return table;
    }

    /// <summary>The process that serves a mount; null where none does, or it cannot be seen.</summary>
    public int? Find(MountEntry mount)
    {
        string minor = mount.Minor.ToString(CultureInfo.InvariantCulture);
        if (_candidates.Exists(static candidate => candidate.Connections.Count > 0))
        {
            // One that is still about to end has a session whose number may be another's by now.
            List<Candidate> serving = _candidates.FindAll(
                candidate => candidate.Connections.Contains(minor) && !candidate.Denies(mount));
            return (serving.Where(static candidate => candidate.Word is not null)
                    .MaxBy(static candidate => WatchedProcess.StartOf(candidate.Id))
                ?? serving.Find(static candidate => candidate.IsOfProgram))?.Id;
        }

        List<Candidate> sayers = _candidates.FindAll(candidate => candidate.Says(mount));
        List<Candidate> holders = sayers.Count > 0
            ? sayers : _candidates.FindAll(candidate => candidate.Files.Contains(mount.Source));
        return holders.Count == 1 ? holders[0].Id : null;
    }

    /// <summary>
    /// The mount that a process of this program serves. Of several places that a session has, and where the process
    /// cannot be looked at, the one that a path leads to; null where this program has mounted nothing there.
    /// </summary>
    /// <param name="process">The process.</param>
    /// <param name="directory">Where it was told to mount.</param>
    public static MountEntry? MountOf(int process, string directory)
    {
        string place = MountPoint.Resolve(directory);
        IReadOnlyList<MountEntry> table = MountTable.Read();
        List<MountEntry> ours = [.. table.Where(OwnMount.Is)];
        if (Look(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}"), process) is not { } candidate)
        {
            return ours.FindLast(entry => entry.MountPoint == place && entry.UserId == MountCalls.EffectiveUser());
        }

        List<MountEntry> served = ours.FindAll(entry => candidate.Connections.Count > 0
            ? candidate.Connections.Contains(entry.Minor.ToString(CultureInfo.InvariantCulture))
                && !candidate.Denies(entry)
            : candidate.Says(entry));
        return served.Find(entry => entry.MountPoint == place) ?? served.FirstOrDefault();
    }

    /// <summary>
    /// Whether a process that is seen keeps a mount alive, if not as its daemon: nobody may answer there.
    /// </summary>
    public bool IsHeld(MountEntry mount) => _candidates.Exists(candidate =>
        candidate.Connections.Contains(mount.Minor.ToString(CultureInfo.InvariantCulture))
        && !candidate.Denies(mount));

    /// <summary>The descriptor of a process that is its <see cref="LastWord"/>; null where it has none.</summary>
    public static string? WordOf(int process) =>
        Look(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}"), process)?.Word;

    /// <summary>The mounts of this namespace that a process serves.</summary>
    /// <param name="process">The process.</param>
    /// <param name="word">Its <see cref="LastWord"/>, which knows the session where the kernel does not tell; −1 for
    /// none.</param>
    public static IReadOnlyList<MountEntry> PlacesOf(int process, int word)
    {
        Candidate? candidate = Look(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}"), process);
        HashSet<string> sessions = [.. candidate?.Connections ?? []];
        if (sessions.Count == 0 && word >= 0)
        {
            _ = LastWord.Read(word, out int session, out _);
            sessions.Add(session.ToString(CultureInfo.InvariantCulture));
        }

        return
        [
            .. MountTable.Read()
                .Where(entry => OwnMount.Is(entry)
                    && sessions.Contains(entry.Minor.ToString(CultureInfo.InvariantCulture))
                    && (word < 0 || !LastWord.Denies(word, entry))),
        ];
    }

    /// <summary>A process with /dev/fuse open; null for others.</summary>
    private static Candidate? Look(string directory, int id)
    {
        Candidate candidate = new(id);
        try
        {
            foreach ((string number, string target) in OpenDescriptors.Of(directory))
            {
                candidate.Files.Add(target);
                if (LastWord.IsLink(target))
                    candidate.Word = number;
                if (target is DevicePath
                    && OpenDescriptors.FieldOf($"{directory}/fdinfo/{number}", ConnectionField) is { } connection)
                {
                    candidate.Connections.Add(connection);
                }
            }
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // It ended while it was looked at, or belongs to somebody else.
            return null;
        }

        return candidate.Files.Contains(DevicePath) ? candidate : null;
    }

    private sealed record Candidate(int Id)
    {
        public List<string> Connections { get; } = [];

        public HashSet<string> Files { get; } = new(StringComparer.Ordinal);

        public string? Word { get; set; }

        /// <summary>Whether it is called as this program: a daemon of an earlier version has no word.</summary>
        public bool IsOfProgram
        {
            get
            {
                try
                {
                    string name = File.ReadAllText(string.Create(CultureInfo.InvariantCulture, $"/proc/{Id}/comm"));
                    return string.Equals(name.TrimEnd('\n'), Report.ProgramName, StringComparison.Ordinal);
                }
                catch (IOException)
                {
                    return false;
                }
            }
        }

        /// <summary>Whether it says that it serves another mount; the number of a session alone may be an old one.
        /// </summary>
        public bool Denies(MountEntry mount)
        {
            int descriptor = Word is null ? -1 : LastWord.Open(Id, Word);
            if (descriptor < 0)
                return false;
            bool denies = LastWord.Denies(descriptor, mount);
            _ = LinuxFile.Close(descriptor);
            return denies;
        }

        /// <summary>Whether it says that it serves a mount: believed of root, and of the user who mounted.</summary>
        public bool Says(MountEntry mount)
        {
            if (Word is null || !IsOf(mount.UserId))
                return false;
            int descriptor = LastWord.Open(Id, Word);
            if (descriptor < 0)
                return false;
            _ = LastWord.Read(descriptor, out int session, out _);
            _ = LinuxFile.Close(descriptor);
            return session >= 0 && session == mount.Minor;
        }

        private bool IsOf(uint? user)
        {
            int directory = LinuxFile.Open(
                string.Create(CultureInfo.InvariantCulture, $"/proc/{Id}"), OpenFlags.PathOnly | OpenFlags.CloseOnExec);
            if (directory < 0)
                return false;
            int result = LinuxFile.Status(directory, out FileStatus status);
            _ = LinuxFile.Close(directory);
            return result == 0 && (status.Owner == 0 || status.Owner == user);
        }
    }
}
