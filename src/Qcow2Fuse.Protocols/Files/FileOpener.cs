// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>From names to descriptors to devices, with what is asked of every file on the way.</summary>
internal sealed class FileOpener(IOpener opener)
{
    private const int DefaultAlignment = 4096;
    private const uint NewFileMode = 0x1B6; // rw-rw-rw-, less the umask

    /// <summary>With what this process may open.</summary>
    public static FileOpener System { get; } = new(SystemOpener.Instance);

    /// <summary>What opens.</summary>
    public IOpener Opener => opener;

    /// <summary>
    /// The flags for opening a file with <paramref name="access"/>. Non-blocking, because a FIFO would otherwise wait
    /// for its other end; regular files do not care.
    /// </summary>
    public static int FlagsOf(StorageAccess access)
    {
        int flags = OpenFlags.CloseOnExec | OpenFlags.NonBlocking | OpenFlags.NoTerminal;
        flags |= access.ReadOnly ? OpenFlags.ReadOnly : OpenFlags.ReadWrite;
        return access.Direct ? flags | OpenFlags.Direct : flags;
    }

    /// <summary>See <see cref="FileDevice.Open"/>.</summary>
    public FileDevice OpenNamed(string path, StorageAccess access)
    {
        CheckNoNul(path);
        int fd = opener.Open(path, FlagsOf(access));
        return FromResult(fd, path, access, blockDeviceAllowed: true);
    }

    /// <summary>A file the user named, with the directory that has its name, from which it was opened.</summary>
    public FileDevice OpenFrom(string path, StorageAccess access)
    {
        CheckNoNul(path);
        HeldDirectory directory = DirectoryOf(path, access, out string name);
        return Within(directory, directory.OpenFile(name, FlagsOf(access)), path, access);
    }

    /// <summary>
    /// The same file once more, opened with <paramref name="access"/>. No name is looked up; the directory goes over.
    /// </summary>
    public FileDevice Reopen(FileDevice file, StorageAccess access)
    {
        int fd = opener.Reopen(file.Descriptor, FlagsOf(access));
        FileDevice again = FromResult(fd, file.Path, access, blockDeviceAllowed: true);
        again.Directory = file.TakeDirectory();
        return again;
    }

    /// <summary>See <see cref="FileDevice.Create"/>.</summary>
    public FileDevice Create(string path, bool replace)
    {
        CheckNoNul(path);
        StorageAccess access = new(ReadOnly: false, Direct: false);
        HeldDirectory directory = DirectoryOf(path, access, out string name);
        int flags = FlagsOf(access) | OpenFlags.Create;
        int fd = directory.OpenFile(name, flags | OpenFlags.Exclusive, NewFileMode);
        bool isNew = fd >= 0;
        if (fd == -Errno.EEXIST && replace)
            fd = directory.OpenFile(name, flags, NewFileMode);
        FileDevice file = Within(directory, fd, path, access);
        file.IsNew = isNew;
        try
        {
            file.Lock(ImageLockMode.Writer);
            if (file.Limits.GrowsOnWrite)
                file.Resize(0);
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>The directory of a file that the user named, and the file's name in it.</summary>
    private HeldDirectory DirectoryOf(string path, StorageAccess access, out string name)
    {
        // Without a last component there is no file to name; the system says what is wrong with it.
        name = path[(path.LastIndexOf('/') + 1)..];
        if (name.Length == 0 && path.Length > 0)
            name = ".";
        int result = HeldDirectory.TryOpen(opener, FilePath.DirectoryOf(path), out HeldDirectory? directory);
        return result >= 0 ? directory! : throw NotOpened(-result, path, access);
    }

    private FileDevice Within(HeldDirectory directory, int fd, string path, StorageAccess access)
    {
        try
        {
            FileDevice file = FromResult(fd, path, access, blockDeviceAllowed: true);
            file.Directory = directory;
            return file;
        }
        catch
        {
            directory.Dispose();
            throw;
        }
    }

    /// <summary>
    /// The device for a descriptor, or the failure for a negated error number. Closes the descriptor on failure.
    /// </summary>
    public FileDevice FromResult(int fd, string path, StorageAccess access, bool blockDeviceAllowed)
    {
        if (fd < 0)
            throw NotOpened(-fd, path, access);
        try
        {
            return FromDescriptor(fd, path, access, blockDeviceAllowed);
        }
        catch
        {
            _ = LinuxFile.Close(fd);
            throw;
        }
    }

    private FileDevice FromDescriptor(int fd, string path, StorageAccess access, bool blockDeviceAllowed)
    {
        string name = Printable.Text(path);
        int result = LinuxFile.Status(fd, out FileStatus status);
        if (result < 0)
            throw FileErrors.Failed(-result, name, "fstat");
        bool isBlockDevice = status.Type == FileType.BlockDevice;
        if (status.Type != FileType.Regular && !(isBlockDevice && blockDeviceAllowed))
            throw new BlockException(BlockErrorKind.InvalidFormat, $"{name}: is {Describe(status.Type)}");

        long length = isBlockDevice ? LinuxFile.Seek(fd, 0, SeekWhence.End) : status.Size;
        if (length < 0)
            throw FileErrors.Failed((int)-length, name, "search for the end");
        DirectFile? direct = null;
        if (access.Direct)
        {
            int memory = status.DirectMemoryAlignment > 0 ? status.DirectMemoryAlignment : DefaultAlignment;
            int offsets = status.DirectOffsetAlignment > 0 ? status.DirectOffsetAlignment : DefaultAlignment;
            direct = new DirectFile(fd, memory, offsets);
        }

        return new FileDevice(this, fd, path, status, access.ReadOnly, direct, length);
    }

    private static BlockException NotOpened(int errno, string path, StorageAccess access)
    {
        string name = Printable.Text(path);
        return errno switch
        {
            Errno.EISDIR => new BlockException(BlockErrorKind.InvalidFormat, $"{name}: is a directory"),
            Errno.ENXIO => new BlockException(
                BlockErrorKind.InvalidFormat, $"{name}: is a socket or a device that is not there"),
            Errno.EINVAL when access.Direct => new BlockException(
                BlockErrorKind.NotSupported,
                $"{name}: cannot be opened: its file system has no O_DIRECT",
                cause: FailureCode.NoDirectAccess),
            _ => FileErrors.NotOpened(errno, name, access.ReadOnly),
        };
    }

    private static void CheckNoNul(string path)
    {
        if (path.Contains('\0'))
        {
            throw new BlockException(
                BlockErrorKind.NotFound, $"{Printable.Text(path)}: a file name cannot hold a NUL character");
        }
    }

    private static string Describe(FileType type) => type switch
    {
        FileType.Directory => "a directory",
        FileType.Fifo => "a FIFO",
        FileType.Socket => "a socket",
        FileType.CharacterDevice => "a character device",
        FileType.BlockDevice => "a block device",
        FileType.SymbolicLink => "a symbolic link",
        _ => "not a regular file",
    };
}
