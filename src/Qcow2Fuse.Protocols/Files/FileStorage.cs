// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// Files of the host. What the user names may be any regular file or block device. What an image names must be a
/// regular file in the image's own directory or below, or (a backing file) in a directory the user allowed.
/// </summary>
/// <remarks>
/// Every path is walked once. The directory in which a file was found stays open until the file's own references are
/// resolved, and they are resolved from it. The kernel keeps the rule meanwhile (openat2(2), RESOLVE_BENEATH), so
/// neither ".." nor a symbolic link nor a rename in between leads out. Symbolic links that stay inside are followed to
/// backing files, but never to a data file, since that one is written.
/// </remarks>
/// <param name="keeper">Has files that were opened before, and is told of those that are opened; or null.</param>
/// <param name="folder">The directory whose images are opened, with its own rules; null for images the user names.
/// </param>
/// <param name="opener">What opens them; null for the system. The folder has its own, which is to be the same.</param>
public sealed class FileStorage(FileKeeper? keeper = null, ImageFolder? folder = null, IOpener? opener = null)
    : IStorageOpener
{
    /// <summary>The kind of storage that files of the host are.</summary>
    public const string Scheme = "file";

    private const ResolveFlags Inside = ResolveFlags.Beneath | ResolveFlags.NoMagicLinks;

    private readonly FileOpener _files = new(opener ?? SystemOpener.Instance);

    /// <inheritdoc/>
    public IStorageFile OpenNamed(string path, StorageAccess access) => keeper is null
        ? FindNamed(path, access)
        : keeper.Open(path, access, _files, () => FindNamed(path, access));

    /// <inheritdoc/>
    public IStorageFile Reopen(IStorageFile file, StorageAccess access)
    {
        FileDevice opened = (FileDevice)file;
        return keeper is null
            ? _files.Reopen(opened, access)
            : keeper.Open(file.Path, access, _files, () => _files.Reopen(opened, access));
    }

    /// <inheritdoc/>
    public IStorageFile OpenReference(StorageReference reference, StorageAccess access) => keeper is null
        ? Find(reference, access)
        : keeper.Open(
            $"{reference.Image.Path}\n{reference.Kind}\n{reference.Name}", access, _files,
            () => Find(reference, access));

    private FileDevice FindNamed(string path, StorageAccess access)
    {
        if (folder?.NameOf(path) is not { } name)
            return _files.OpenFrom(path, access);
        FileDevice file = folder.Open(name, access);
        return WithDirectory(file, folder.Directory, "");
    }

    private FileDevice Find(StorageReference reference, StorageAccess access)
    {
        ReferenceErrors.CheckName(reference);

        // A file that an earlier process left comes without its directory.
        FileDevice image = (FileDevice)reference.Image;
        HeldDirectory directory =
            image.Directory ??= HeldDirectory.Open(_files.Opener, FilePath.DirectoryOf(image.Path));
        string? beneath = FilePath.IsAbsolute(reference.Name)
            ? FilePath.Beneath(LinuxPath.Full(directory.Path), reference.Name)
                ?? FilePath.Beneath(FilePath.OfDescriptor(directory.Descriptor), reference.Name)
            : reference.Name;
        if (beneath is null || FilePath.HasHiddenPart(beneath))
            return OpenOutside(reference, directory, beneath ?? reference.Name, access);

        bool followsLinks = reference.Kind != ReferenceKind.DataFile && folder is not { IsGuarded: true };
        int result = TryWalk(directory, beneath, access, followsLinks, out FileDevice? file);
        return -result switch
        {
            0 => Checked(file!, reference, OwnerOf(folder?.Directory)),
            Errno.EXDEV => OpenOutside(reference, directory, beneath, access),
            Errno.ELOOP => throw ReferenceErrors.Linked(reference),
            Errno.ENOSYS or Errno.EPERM when !LinuxFile.HasOpenat2() => throw ReferenceErrors.NoOpenat2(reference),
            _ => _files.FromResult(
                result, FilePath.Join(directory.Path, beneath), access, blockDeviceAllowed: false),
        };
    }

    /// <summary>
    /// Opens what a name below a directory leads to: first the directory that has the name, which is kept, then the
    /// file from there. Only a link in place of the file that leads out of the directory it lies in, and not out of
    /// the one it began in, takes the kernel from the beginning again.
    /// </summary>
    /// <returns>0 and the file, or −errno.</returns>
    private int TryWalk(
        HeldDirectory from, string beneath, StorageAccess access, bool followsLinks, out FileDevice? file)
    {
        file = null;
        ResolveFlags rules = followsLinks ? Inside : Inside | ResolveFlags.NoSymlinks;
        string name = beneath.TrimEnd('/');
        int slash = name.LastIndexOf('/');
        string last = name[(slash + 1)..];
        bool isPlain = name.Length == beneath.Length && last is not ("" or "." or "..");
        int result = from.TryOpenBelow(slash > 0 ? name[..slash] : "", rules, out HeldDirectory? parent);
        if (result < 0)
            return result;
        int flags = FileOpener.FlagsOf(access);
        int fd = isPlain
            ? parent!.OpenFileBelow(last, flags, rules)
            : from.OpenFileBelow(beneath, flags, rules);
        if (fd == -Errno.EXDEV && isPlain && slash > 0)
            fd = from.OpenFileBelow(beneath, flags, rules);
        if (fd < 0)
        {
            parent!.Dispose();
            return fd;
        }

        try
        {
            file = _files.FromResult(fd, FilePath.Join(from.Path, beneath), access, blockDeviceAllowed: false);
            file.Directory = parent;
            return 0;
        }
        catch
        {
            parent!.Dispose();
            throw;
        }
    }

    /// <summary>
    /// A file outside the image's directory, or hidden in it. Its real name is looked up without opening it, and it is
    /// opened only from the allowed directory that holds it.
    /// </summary>
    private FileDevice OpenOutside(
        StorageReference reference, HeldDirectory directory, string name, StorageAccess access)
    {
        string path = FilePath.Join(directory.Path, name);
        if (reference.Kind == ReferenceKind.DataFile || reference.AllowPaths.Count == 0)
            throw ReferenceErrors.Outside(reference, path);
        int found = directory.OpenFile(name, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (found < 0)
            throw FileErrors.NotOpened(-found, Printable.Text(path), access.ReadOnly);
        string real = FilePath.OfDescriptor(found);
        _ = LinuxFile.Close(found);
        foreach (string allowedPath in reference.AllowPaths)
        {
            HeldDirectory? kept = folder?.Allowed(allowedPath);
            HeldDirectory allowed = kept ?? HeldDirectory.Open(_files.Opener, allowedPath);
            try
            {
                string? beneath = FilePath.Beneath(FilePath.OfDescriptor(allowed.Descriptor), real);
                if (beneath is null || FilePath.HasHiddenPart(beneath))
                    continue;
                int result = TryWalk(allowed, beneath, access, followsLinks: false, out FileDevice? file);
                if (result == 0)
                    return Checked(file!, reference, OwnerOf(folder is null ? null : allowed));
                throw result is -Errno.ENOSYS or -Errno.EPERM && !LinuxFile.HasOpenat2()
                    ? ReferenceErrors.NoOpenat2(reference)
                    : FileErrors.NotOpened(-result, Printable.Text(real), access.ReadOnly);
            }
            finally
            {
                if (kept is null)
                    allowed.Dispose();
            }
        }

        throw ReferenceErrors.Outside(reference, path, real);
    }

    /// <summary>The file if it is one that may be opened for its image; else it is closed.</summary>
    /// <param name="file">The open file, with its directory.</param>
    /// <param name="reference">Who named it.</param>
    /// <param name="owner">In a guarded directory, whose files are opened besides the user's and root's.</param>
    private FileDevice Checked(FileDevice file, StorageReference reference, uint? owner)
    {
        try
        {
            FileStatus parent = file.Directory!.Status();
            if (folder is { IsGuarded: true })
            {
                ImageFolder.Check(file, parent, owner!.Value);
            }
            else if (FileTrust.MayBePlanted(FileTrust.StatusOf(file.Descriptor, file.Path), parent)
                && !FileTrust.KernelGuardsLinks(_files.Opener))
            {
                throw ReferenceErrors.Planted(reference);
            }

            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static uint? OwnerOf(HeldDirectory? directory) => directory?.Status().Owner;

    private static FileDevice WithDirectory(FileDevice file, HeldDirectory from, string name)
    {
        int result = from.TryOpenBelow(name, ResolveFlags.None, out HeldDirectory? directory);
        file.Directory = directory;
        if (result >= 0)
            return file;
        file.Dispose();
        throw FileErrors.NotOpened(-result, Printable.Text(from.Path), readOnly: true);
    }
}
