// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Protocols;

/// <summary>
/// Files of the host. What the user names may be any regular file or block device. What an image names must be a
/// regular file in the image's own directory or below, or (a backing file) in a directory the user allowed.
/// </summary>
/// <remarks>
/// The kernel keeps the rule while it resolves the name (openat2(2), RESOLVE_BENEATH), so neither ".." nor a symbolic
/// link nor a rename in between leads out. Symbolic links that stay inside are followed to backing files, but never
/// to a data file, since that one is written.
/// </remarks>
/// <param name="keeper">Has files that were opened before, and is told of those that are opened; or null.</param>
public sealed class FileStorage(FileKeeper? keeper = null) : IStorageOpener
{
    /// <inheritdoc/>
    public IStorageFile OpenNamed(string path, StorageAccess access) => keeper is null
        ? FileOpener.OpenNamed(path, access)
        : keeper.Open(path, access, () => FileOpener.OpenNamed(path, access));

    /// <inheritdoc/>
    public IStorageFile OpenReference(StorageReference reference, StorageAccess access) => keeper is null
        ? Find(reference, access)
        : keeper.Open(
            $"{reference.ImagePath}\n{reference.Kind}\n{reference.Name}", access, () => Find(reference, access));

    private static FileDevice Find(StorageReference reference, StorageAccess access)
    {
        ReferenceErrors.CheckName(reference);
        string directory = FilePath.DirectoryOf(reference.ImagePath);
        int directoryFd = OpenDirectory(directory);
        try
        {
            string? beneath = FilePath.IsAbsolute(reference.Name)
                ? FilePath.Beneath(Path.GetFullPath(directory), reference.Name)
                    ?? FilePath.Beneath(FilePath.OfDescriptor(directoryFd), reference.Name)
                : reference.Name;
            if (beneath is null)
                return OpenOutside(reference, FilePath.Join(directory, reference.Name), access);

            string path = FilePath.Join(directory, beneath);
            int fd = LinuxFile.OpenAt(directoryFd, beneath, FileOpener.FlagsOf(access), RulesFor(reference.Kind));
            return -fd switch
            {
                Errno.EXDEV => OpenOutside(reference, path, access),
                Errno.ELOOP => throw ReferenceErrors.Linked(reference),
                Errno.ENOSYS => throw ReferenceErrors.NoOpenat2(reference),
                _ => FileOpener.FromResult(fd, path, access, blockDeviceAllowed: false),
            };
        }
        finally
        {
            _ = LinuxFile.Close(directoryFd);
        }
    }

    private static ResolveFlags RulesFor(ReferenceKind kind)
    {
        ResolveFlags rules = ResolveFlags.Beneath | ResolveFlags.NoMagicLinks;
        return kind == ReferenceKind.DataFile ? rules | ResolveFlags.NoSymlinks : rules;
    }

    /// <summary>
    /// A file outside the image's directory. Its real name is looked up without opening it, and it is opened only
    /// from the allowed directory that holds it.
    /// </summary>
    private static FileDevice OpenOutside(StorageReference reference, string path, StorageAccess access)
    {
        if (reference.Kind == ReferenceKind.DataFile || reference.AllowPaths.Count == 0)
            throw ReferenceErrors.Outside(reference, path);
        int found = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (found < 0)
            throw FileErrors.NotOpened(-found, Printable.Text(path), access.ReadOnly);
        string real = FilePath.OfDescriptor(found);
        _ = LinuxFile.Close(found);
        foreach (string allowed in reference.AllowPaths)
        {
            int allowedFd = OpenDirectory(allowed);
            try
            {
                if (FilePath.Beneath(FilePath.OfDescriptor(allowedFd), real) is not { } beneath)
                    continue;
                int fd = LinuxFile.OpenAt(
                    allowedFd,
                    beneath,
                    FileOpener.FlagsOf(access),
                    ResolveFlags.Beneath | ResolveFlags.NoMagicLinks | ResolveFlags.NoSymlinks);
                return fd == -Errno.ENOSYS
                    ? throw ReferenceErrors.NoOpenat2(reference)
                    : FileOpener.FromResult(fd, real, access, blockDeviceAllowed: false);
            }
            finally
            {
                _ = LinuxFile.Close(allowedFd);
            }
        }

        throw ReferenceErrors.Outside(reference, path);
    }

    private static int OpenDirectory(string path)
    {
        int fd = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.Directory | OpenFlags.CloseOnExec);
        return fd >= 0 ? fd : throw FileErrors.NotOpened(-fd, Printable.Text(path), readOnly: true);
    }
}
