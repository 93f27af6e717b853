// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// A directory whose regular files are images, kept as a descriptor. Where others may enter the mount, or may put
/// names into the directory, it is guarded: no link is followed, and only files of the mounting user, of root and of
/// the directory's owner are opened, whatever the mounting user could read.
/// </summary>
/// <remarks>
/// Every opening asks anew who owns the directory and the file, of the descriptors. All members may be called on any
/// thread.
/// </remarks>
public sealed class ImageFolder : IDisposable
{
    private const string Link =
        "is a symbolic link, which is not followed where others may enter the mount or write to the directory";

    private readonly FileOpener _opener;
    private readonly HeldDirectory _directory;
    private readonly Dictionary<string, HeldDirectory> _allowed = new(StringComparer.Ordinal);
    private readonly bool _isShared;

    private ImageFolder(FileOpener opener, HeldDirectory directory, bool isShared)
    {
        _opener = opener;
        _directory = directory;
        _isShared = isShared;
    }

    /// <summary>Its path as it was named, not escaped.</summary>
    public string Path => _directory.Path;

    /// <summary>Whether names and files of others are refused.</summary>
    /// <exception cref="BlockException">The system does not tell whose the directory is.</exception>
    public bool IsGuarded => _isShared || !FileTrust.IsOwn(_directory.Status());

    /// <summary>When a name in it last changed, in ticks of UTC.</summary>
    /// <exception cref="BlockException">The system does not tell.</exception>
    public long ModifiedTicks => _directory.Status().ModifiedTicks;

    internal HeldDirectory Directory => _directory;

    /// <summary>Opens a directory, and those in which backing files of its images may lie besides.</summary>
    /// <param name="path">The directory.</param>
    /// <param name="isShared">Whether others than the user of this process may enter what is mounted.</param>
    /// <param name="allowPaths">The other directories.</param>
    /// <param name="opener">What opens them and the images; null for the system.</param>
    /// <exception cref="BlockException">One of them is none, or cannot be entered.</exception>
    public static ImageFolder Open(
        string path, bool isShared, IReadOnlyList<string> allowPaths, IOpener? opener = null)
    {
        FileOpener files = new(opener ?? SystemOpener.Instance);
        ImageFolder folder = new(files, HeldDirectory.Open(files.Opener, path), isShared);
        try
        {
            foreach (string allowed in allowPaths)
            {
                if (!folder._allowed.ContainsKey(allowed))
                    folder._allowed.Add(allowed, HeldDirectory.Open(files.Opener, allowed));
            }

            return folder;
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    /// <summary>The names of files that may be images, in no order.</summary>
    /// <param name="bytesMax">Memory for them: where it ends, they do.</param>
    /// <param name="isWhole">Whether there was memory for all.</param>
    /// <exception cref="BlockException">It cannot be read.</exception>
    public List<string> Names(long bytesMax, out bool isWhole)
    {
        int fd = OpenToRead();
        List<string> names = [];
        int result = LinuxDirectory.FileNames(fd, names, bytesMax);
        _ = LinuxFile.Close(fd);
        isWhole = result == 0;
        return result >= 0 ? names : throw FileErrors.Failed(-result, Printable.Text(Path), "reading");
    }

    /// <summary>Sees that the names can be read; one that can only be entered would look as if it had none.</summary>
    /// <exception cref="BlockException">They cannot.</exception>
    public void RequireReadable() => _ = LinuxFile.Close(OpenToRead());

    private int OpenToRead()
    {
        int fd = _directory.OpenFile(
            ".", OpenFlags.ReadOnly | OpenFlags.Directory | OpenFlags.CloseOnExec);
        return fd >= 0 ? fd : throw FileErrors.NotOpened(-fd, Printable.Text(Path), readOnly: true);
    }

    /// <summary>What a name stands for now; null unless it is a regular file that would be opened.</summary>
    /// <exception cref="BlockException">The system does not tell whose the directory is.</exception>
    public FileStatus? Look(string name) =>
        TryLook(name, out FileStatus status, out string? refusal) && refusal is null
        && status.Type == FileType.Regular ? status : null;

    /// <summary>Why a name is not opened because of whose it is, or is a link: one line; else null.</summary>
    /// <exception cref="BlockException">The system does not tell whose the directory is.</exception>
    public string? RefusalOf(string name) => TryLook(name, out _, out string? refusal) && refusal is not null
        ? $"{Printable.Text(FilePath.Join(Path, name))}: {refusal}" : null;

    /// <summary>Opens a file of the directory for reading.</summary>
    /// <exception cref="BlockException">See <see cref="IStorageOpener.OpenNamed"/>; or it is refused here.</exception>
    public FileDevice Open(string name) => Open(name, new StorageAccess(ReadOnly: true, Direct: false));

    /// <inheritdoc/>
    public void Dispose()
    {
        _directory.Dispose();
        foreach (HeldDirectory allowed in _allowed.Values)
            allowed.Dispose();
    }

    /// <summary>The name of one of its files by the path that begins with its own; else null.</summary>
    internal string? NameOf(string path)
    {
        string name = path[(path.LastIndexOf('/') + 1)..];
        return name.Length > 0 && string.Equals(FilePath.Join(Path, name), path, StringComparison.Ordinal)
            ? name
            : null;
    }

    /// <summary>A directory that was allowed when this one was opened; else null.</summary>
    internal HeldDirectory? Allowed(string path) => _allowed.GetValueOrDefault(path);

    /// <summary>Opens a file of the directory.</summary>
    internal FileDevice Open(string name, StorageAccess access)
    {
        string path = FilePath.Join(Path, name);
        int flags = FileOpener.FlagsOf(access);
        FileStatus directory = _directory.Status();
        bool isGuarded = _isShared || !FileTrust.IsOwn(directory);
        int fd = _directory.OpenFile(name, isGuarded ? flags | OpenFlags.NoFollow : flags);
        if (fd == -Errno.ELOOP && isGuarded)
            throw new BlockException(BlockErrorKind.Policy, $"{Printable.Text(path)}: {Link}");
        FileDevice file = _opener.FromResult(fd, path, access, blockDeviceAllowed: false);
        try
        {
            if (isGuarded)
                Check(file, directory, directory.Owner);
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Refuses a file that is not to be opened here.</summary>
    /// <param name="file">The open file.</param>
    /// <param name="parent">The directory that has its name.</param>
    /// <param name="owner">Whose files are opened besides the mounting user's and root's.</param>
    internal static void Check(FileDevice file, in FileStatus parent, uint owner)
    {
        if (RefusalOf(FileTrust.StatusOf(file.Descriptor, file.Path), parent, owner) is { } reason)
            throw new BlockException(BlockErrorKind.Policy, $"{file.Name}: {reason}");
    }

    /// <summary>What a name stands for; false where that cannot be seen.</summary>
    private bool TryLook(string name, out FileStatus status, out string? refusal)
    {
        FileStatus directory = _directory.Status();
        bool isGuarded = _isShared || !FileTrust.IsOwn(directory);
        int result = LinuxFile.Status(_directory.Descriptor, name, followsLink: !isGuarded, out status);
        refusal = null;
        if (result >= 0 && isGuarded)
            refusal = status.Type == FileType.SymbolicLink ? Link : RefusalOf(status, directory, directory.Owner);
        return result >= 0;
    }

    private static string? RefusalOf(in FileStatus file, in FileStatus parent, uint owner)
    {
        if (!FileTrust.IsOwnedBy(file, owner))
            return "belongs to somebody else than the mounting user, root and the directory's owner";
        return FileTrust.MayBePlanted(file, parent)
            ? "has several names, and may be somebody else's link to what is not his"
            : null;
    }
}
