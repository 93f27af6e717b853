// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Mounts;

namespace Qcow2Fuse.Control.Messages;

/// <summary>
/// Where the control sockets of running mounts are: <c>/run/qcow2fuse/ID.sock</c> for root,
/// <c>$XDG_RUNTIME_DIR/qcow2fuse/ID.sock</c> for others, with /run/user/UID where that variable names no
/// directory of this user's. ID is the process id of the daemon. Nobody looks into another user's directory, root
/// neither.
/// </summary>
internal static class ControlPath
{
    private const string Ending = ".sock";
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;

    /// <summary>The directory of the calling user's sockets; null where there is none.</summary>
    public static string? Directory => MountCalls.EffectiveUser() == 0
        ? MountDirectory.System
        : MountDirectory.OfUser is { } runtime ? Path.Combine(runtime, "qcow2fuse") : null;

    /// <summary>The socket of a daemon in a directory.</summary>
    public static string SocketOf(string directory, int process) =>
        Path.Combine(directory, process.ToString(CultureInfo.InvariantCulture) + Ending);

    /// <summary>Makes the directory if it is missing.</summary>
    /// <exception cref="IOException">It cannot be made, or others could put sockets there.</exception>
    public static void Prepare(string directory)
    {
        if (string.Equals(directory, MountDirectory.System, StringComparison.Ordinal))
            MountDirectory.Make(directory);
        else
            System.IO.Directory.CreateDirectory(directory, OwnerOnly);
        if (!MountDirectory.IsOwn(directory))
            throw new IOException($"{directory}: is not a directory that only this user can write to");
    }

    /// <summary>Removes the sockets of daemons that were killed.</summary>
    public static void RemoveStale(string directory)
    {
        foreach (string socket in SocketsIn(directory))
        {
            if (IdOf(socket) is { } process && !WatchedProcess.IsRunning(process))
                Remove(socket);
        }
    }

    /// <summary>Removes a socket, if it is still there.</summary>
    public static void Remove(string socket)
    {
        try
        {
            File.Delete(socket);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // Nobody listens there, and whoever looks finds that its process does not run.
        }
    }

    private static IEnumerable<string> SocketsIn(string directory) =>
        EntriesOf(directory).Where(static entry => entry.EndsWith(Ending, StringComparison.Ordinal));

    private static string[] EntriesOf(string directory)
    {
        try
        {
            return System.IO.Directory.Exists(directory)
                ? System.IO.Directory.GetFileSystemEntries(directory)
                : [];
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // What cannot be looked into cannot be controlled either.
            return [];
        }
    }

    /// <summary>The process id in the name of a socket; null for other names.</summary>
    public static int? IdOf(string socket) =>
        int.TryParse(
            Path.GetFileNameWithoutExtension(socket), NumberStyles.None, CultureInfo.InvariantCulture, out int id)
        && Path.GetExtension(socket) is Ending
            ? id
            : null;
}
