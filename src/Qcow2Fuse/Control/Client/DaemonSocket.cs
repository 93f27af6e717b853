// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Control.Client;

/// <summary>
/// The control socket of a daemon that runs, held by its descriptor. It and its directory belong to root or to the
/// calling user, and nobody else can put anything there; who answers is another question (<see cref="ControlClient"/>).
/// </summary>
internal sealed class DaemonSocket : IDisposable
{
    private const uint OthersWrite = 0x12; // ----w--w-
    private const int Held = OpenFlags.PathOnly | OpenFlags.CloseOnExec;

    private int _descriptor;

    private DaemonSocket(int process, int descriptor)
    {
        Process = process;
        _descriptor = descriptor;
    }

    /// <summary>The daemon, by the name of the socket.</summary>
    public int Process { get; }

    /// <summary>A path by which the socket itself is connected to, whatever its name leads to by now.</summary>
    public string Path => string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{_descriptor}");

    /// <summary>The sockets of all daemons of the calling user that run; dispose each of them.</summary>
    public static IEnumerable<DaemonSocket> FindAll()
    {
        if (ControlPath.Directory is not { } directory)
            yield break;
        int held = LinuxFile.Open(directory, Held | OpenFlags.Directory | OpenFlags.NoFollow);
        if (held < 0)
            yield break;
        try
        {
            if (!IsTrusted(held, FileType.Directory))
                yield break;
            foreach (string entry in EntriesOf(held))
            {
                if (ControlPath.IdOf(entry) is { } process && WatchedProcess.IsRunning(process)
                    && TryOpen(held, entry, process) is { } socket)
                {
                    yield return socket;
                }
            }
        }
        finally
        {
            _ = LinuxFile.Close(held);
        }
    }

    /// <summary>The socket of a daemon; null where it has none that is to be trusted.</summary>
    public static DaemonSocket? Find(int process)
    {
        DaemonSocket? found = null;
        foreach (DaemonSocket socket in FindAll())
        {
            if (found is null && socket.Process == process)
                found = socket;
            else
                socket.Dispose();
        }

        return found;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_descriptor >= 0)
            _ = LinuxFile.Close(_descriptor);
        _descriptor = -1;
    }

    private static DaemonSocket? TryOpen(int directory, string name, int process)
    {
        int descriptor = LinuxDirectory.OpenIn(directory, name, Held | OpenFlags.NoFollow);
        if (descriptor < 0)
            return null;
        if (IsTrusted(descriptor, FileType.Socket))
            return new DaemonSocket(process, descriptor);
        _ = LinuxFile.Close(descriptor);
        return null;
    }

    private static bool IsTrusted(int descriptor, FileType type) =>
        LinuxFile.Status(descriptor, out FileStatus status) == 0 && status.Type == type
        && (status.Owner == 0 || status.Owner == MountCalls.EffectiveUser())
        && (status.Permissions & OthersWrite) == 0;

    private static List<string> EntriesOf(int directory)
    {
        try
        {
            return
            [
                .. Directory.EnumerateFileSystemEntries(
                    string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{directory}/"))
                    .Select(static path => System.IO.Path.GetFileName(path)),
            ];
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // What cannot be looked into cannot be controlled either.
            return [];
        }
    }
}
