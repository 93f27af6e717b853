// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// What storage asks the system for by a name: nothing else in this project opens, makes or removes a file. Another
/// process can do it for one that may open nothing, as descriptors pass through a socket.
/// </summary>
/// <remarks>All members return a descriptor, or 0 where there is none to return, or a negated error number.</remarks>
public interface IOpener
{
    /// <summary>Opens a path that the user named.</summary>
    int Open(string path, int flags);

    /// <summary>Opens or makes a file by its name in a directory (openat(2)).</summary>
    int OpenIn(int directory, string name, int flags, uint mode = 0);

    /// <summary>Opens a path below a directory while the kernel keeps rules (openat2(2)).</summary>
    int OpenBelow(int directory, string path, int flags, ResolveFlags rules);

    /// <summary>Opens the file of a descriptor once more, in another way.</summary>
    int Reopen(int descriptor, int flags);

    /// <summary>Removes a name from a directory.</summary>
    int Unlink(int directory, string name);
}

/// <summary>The system itself, with what this process may do.</summary>
public sealed class SystemOpener : IOpener
{
    /// <summary>The only one there needs to be.</summary>
    public static SystemOpener Instance { get; } = new();

    /// <inheritdoc/>
    public int Open(string path, int flags) => LinuxFile.Open(path, flags);

    /// <inheritdoc/>
    public int OpenIn(int directory, string name, int flags, uint mode = 0) =>
        LinuxDirectory.OpenIn(directory, name, flags, mode);

    /// <inheritdoc/>
    public int OpenBelow(int directory, string path, int flags, ResolveFlags rules) =>
        LinuxFile.OpenAt(directory, path, flags, rules);

    /// <inheritdoc/>
    public int Reopen(int descriptor, int flags) => LinuxFile.Reopen(descriptor, flags);

    /// <inheritdoc/>
    public int Unlink(int directory, string name) => LinuxDirectory.Unlink(directory, name);
}
