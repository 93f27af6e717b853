// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// Holds on to a file that was opened, so that it can be looked at again whatever its path leads to by now. Keeps
/// neither locks nor the right to read it.
/// </summary>
public sealed class FileAnchor : IDisposable
{
    private readonly FileOpener _opener;
    private readonly string _path;
    private int _descriptor;

    private FileAnchor(FileOpener opener, int descriptor, string path)
    {
        _opener = opener;
        _descriptor = descriptor;
        _path = path;
    }

    /// <summary>What the file is now.</summary>
    /// <exception cref="BlockException">The system does not tell.</exception>
    public FileStatus Status => FileTrust.StatusOf(_descriptor, _path);

    /// <summary>Which file it is.</summary>
    /// <exception cref="BlockException">The system does not tell.</exception>
    public FileIdentity Identity => FileIdentity.Of(Status);

    /// <summary>The anchor of an open file.</summary>
    /// <exception cref="BlockException">There is no /proc.</exception>
    public static FileAnchor Of(FileDevice file)
    {
        FileOpener opener = file.Opener;
        int fd = opener.Opener.Reopen(file.Descriptor, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        return fd >= 0
            ? new FileAnchor(opener, fd, file.Path)
            : throw FileErrors.NotOpened(-fd, file.Name, readOnly: true);
    }

    /// <summary>Opens the file for reading.</summary>
    /// <exception cref="BlockException">It may not be read.</exception>
    public FileDevice Open()
    {
        StorageAccess access = new(ReadOnly: true, Direct: false);
        int fd = _opener.Opener.Reopen(_descriptor, FileOpener.FlagsOf(access));
        return _opener.FromResult(fd, _path, access, blockDeviceAllowed: true);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        int fd = Interlocked.Exchange(ref _descriptor, -1);
        if (fd >= 0)
            _ = LinuxFile.Close(fd);
    }
}
