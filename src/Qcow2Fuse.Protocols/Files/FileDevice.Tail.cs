// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>The end of a regular file under O_DIRECT, which writes whole blocks only.</summary>
public sealed partial class FileDevice
{
    /// <summary>A descriptor with the page cache, for the last block of a file that ends inside of it; or −1.</summary>
    private volatile int _tailFd = -1;

    private volatile bool _mayBePadded;
    private volatile bool _keepsLength;

    /// <inheritdoc/>
    /// <remarks>
    /// Where the file cannot be opened once more, as after a change of the user, writes to the last block pad it until
    /// the device is disposed.
    /// </remarks>
    public override void KeepLength()
    {
        _keepsLength = true;
        OpenForTail();
    }

    /// <summary>To be called when the file may have got an end inside a block.</summary>
    private void OpenForTail()
    {
        if (!_keepsLength || _direct is null || _isBlockDevice || IsReadOnly || _tailFd >= 0
            || Length % _direct.Alignment == 0)
        {
            return;
        }

        int fd = _opener.Opener.Reopen(_fd, FileOpener.FlagsOf(new StorageAccess(ReadOnly: false, Direct: false)));
        if (fd >= 0)
            _tailFd = fd;
    }

    private int WriteDirect(long offset, ReadOnlySpan<byte> source)
    {
        long end = offset + source.Length;
        long block = end & -(long)_direct!.Alignment;
        if (_isBlockDevice || block == end || block + _direct.Alignment <= Length)
            return _direct.Write(offset, source);
        if (_tailFd < 0 || end > Length)
        {
            _mayBePadded = true;
            return _direct.Write(offset, source);
        }

        // A kill would leave the padding, and the next process would take it for part of a raw disk.
        int before = (int)Math.Max(block - offset, 0);
        int result = before > 0 ? _direct.Write(offset, source[..before]) : 0;
        return result < 0 ? result : _direct.WriteInBlock(_tailFd, offset + before, source[before..]);
    }

    /// <summary>Should it fail, the file stays longer by zeroes that nobody misses.</summary>
    private void CutPadding()
    {
        long length = Length;
        bool known = LinuxFile.Status(_fd, out FileStatus status) == 0;
        if (known && status.Size > length && status.Size - length < Limits.RequestAlignment)
            _ = LinuxFile.Truncate(_fd, length);
    }
}
