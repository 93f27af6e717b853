// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// A directory kept as the descriptor by which it was found. Names are looked up from it whatever its own path leads
/// to by now: who renames it, or puts a link in its place, moves nothing.
/// </summary>
internal sealed class HeldDirectory : IDisposable
{
    private const int Flags = OpenFlags.PathOnly | OpenFlags.CloseOnExec;

    private readonly IOpener _opener;
    private int _descriptor;

    private HeldDirectory(IOpener opener, int descriptor, string path)
    {
        _opener = opener;
        _descriptor = descriptor;
        Path = path;
    }

    /// <summary>Its path as it was named, for messages and to compare absolute names with; not escaped.</summary>
    public string Path { get; }

    /// <summary>Its descriptor (O_PATH).</summary>
    public int Descriptor => _descriptor;

    /// <summary>The directory of a path that the user named, by whatever links.</summary>
    /// <exception cref="BlockException">It cannot be entered, or is none.</exception>
    public static HeldDirectory Open(IOpener opener, string path)
    {
        int result = TryOpen(opener, path, out HeldDirectory? found);
        return result >= 0 ? found! : throw FileErrors.NotOpened(-result, Printable.Text(path), readOnly: true);
    }

    /// <summary>The directory of a path: 0, or −errno.</summary>
    public static int TryOpen(IOpener opener, string path, out HeldDirectory? found)
    {
        int fd = opener.Open(path, Flags | OpenFlags.Directory);
        found = fd < 0 ? null : new HeldDirectory(opener, fd, path);
        return Math.Min(fd, 0);
    }

    /// <summary>
    /// A directory below this one, or, by an empty name, this one once more: 0 and the directory, or −errno.
    /// </summary>
    public int TryOpenBelow(string name, ResolveFlags rules, out HeldDirectory? found)
    {
        int fd = name.Length == 0
            ? _opener.OpenIn(_descriptor, ".", Flags | OpenFlags.Directory)
            : _opener.OpenBelow(_descriptor, name, Flags | OpenFlags.Directory, rules);
        found = fd < 0 ? null : new HeldDirectory(_opener, fd, name.Length == 0 ? Path : FilePath.Join(Path, name));
        return Math.Min(fd, 0);
    }

    /// <summary>Opens or makes a file by its name in the directory: a descriptor, or −errno.</summary>
    public int OpenFile(string name, int flags, uint mode = 0) => _opener.OpenIn(_descriptor, name, flags, mode);

    /// <summary>Opens a path below the directory while the kernel keeps rules: a descriptor, or −errno.</summary>
    public int OpenFileBelow(string path, int flags, ResolveFlags rules) =>
        _opener.OpenBelow(_descriptor, path, flags, rules);

    /// <summary>Removes a name: 0, or −errno.</summary>
    public int Unlink(string name) => _opener.Unlink(_descriptor, name);

    /// <summary>Who owns it, and who may write to it.</summary>
    /// <exception cref="BlockException">The system does not tell.</exception>
    public FileStatus Status()
    {
        int result = LinuxFile.Status(_descriptor, out FileStatus status);
        return result >= 0 ? status : throw FileErrors.Failed(-result, Printable.Text(Path), "fstat");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        int fd = Interlocked.Exchange(ref _descriptor, -1);
        if (fd >= 0)
            _ = LinuxFile.Close(fd);
    }
}
