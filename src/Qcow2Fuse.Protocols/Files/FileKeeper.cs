// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>An open file that outlives the process.</summary>
/// <param name="Key">How it was asked for; the same question gets it again.</param>
/// <param name="Path">Its path as it was found then, not escaped.</param>
/// <param name="Descriptor">Its descriptor.</param>
public readonly record struct KeptFile(string Key, string Path, int Descriptor);

/// <summary>
/// The files of an image whose descriptors somebody else holds too, and those that an earlier process left there. The
/// locks belong to the open file and so never lapse. A file that was left is not looked up again: its path may lead
/// through a mount that nobody serves yet.
/// </summary>
/// <remarks>
/// While it exists, a file that closes leaves it to the keeper to give its locks back, which is done unless
/// <see cref="LeaveLocks"/> was called. Opening and closing may happen on any thread.
/// </remarks>
public sealed class FileKeeper
{
    private const char ReadOnlyMark = 'r';
    private const char WritableMark = 'w';

    private readonly Lock _lock = new();
    private readonly List<KeptFile> _left = [];
    private readonly List<KeptFile> _open = [];
    private bool _leavesLocks;

    /// <summary>Files that are open now.</summary>
    public IReadOnlyList<KeptFile> OpenFiles
    {
        get
        {
            lock (_lock)
                return [.. _open];
        }
    }

    /// <summary>Adds a file that an earlier process left; its descriptor belongs to the keeper now.</summary>
    public void Add(KeptFile file)
    {
        lock (_lock)
            _left.Add(file);
    }

    /// <summary>From now on locks stay with the descriptors, for the next process.</summary>
    public void LeaveLocks()
    {
        lock (_lock)
            _leavesLocks = true;
    }

    /// <summary>Gives up, with their locks, the files that were left and that nobody has asked for.</summary>
    public void DropUnused()
    {
        lock (_lock)
        {
            foreach (KeptFile file in _left)
            {
                ImageLock.Release(file.Descriptor);
                _ = LinuxFile.Close(file.Descriptor);
            }

            _left.Clear();
        }
    }

    /// <summary>The file that was left for this question, or the one that <paramref name="open"/> finds.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.ReadOnly"/>: it is to be written, and was opened
    /// for reading before, with locks that say so.</exception>
    internal FileDevice Open(
        string question, StorageAccess access, FileOpener opener, Func<FileDevice> open)
    {
        string key = KeyOf(question, access.ReadOnly ? ReadOnlyMark : WritableMark, access);
        string readOnlyKey = KeyOf(question, ReadOnlyMark, access);
        lock (_lock)
        {
            int found = _left.FindIndex(file => string.Equals(file.Key, key, StringComparison.Ordinal));
            if (found < 0 && _left.Exists(file => string.Equals(file.Key, readOnlyKey, StringComparison.Ordinal)))
            {
                throw new BlockException(
                    BlockErrorKind.ReadOnly, $"{Printable.Text(question)}: was not writable before the restart");
            }

            // Its path is not tried again, even by those who would rather have it without the page cache.
            string bufferedKey = KeyOf(question, key[0], access with { Direct = false });
            if (found < 0 && _left.Exists(file => string.Equals(file.Key, bufferedKey, StringComparison.Ordinal)))
            {
                throw new BlockException(
                    BlockErrorKind.NotSupported, $"{Printable.Text(question)}: had the page cache before the restart");
            }

            FileDevice device;
            if (found >= 0)
            {
                KeptFile left = _left[found];
                _left.RemoveAt(found);
                device = opener.FromResult(left.Descriptor, left.Path, access, blockDeviceAllowed: true);
            }
            else
            {
                device = open();
            }

            device.Keeper = this;
            _open.Add(new KeptFile(key, device.Path, device.Descriptor));
            return device;
        }
    }

    internal void Closes(FileDevice device)
    {
        lock (_lock)
        {
            _open.RemoveAll(file => file.Descriptor == device.Descriptor);
            if (!_leavesLocks)
                ImageLock.Release(device.Descriptor);
        }
    }

    private static string KeyOf(string question, char mark, StorageAccess access) =>
        $"{mark}{(access.Direct ? 'd' : 'b')}:{question}";
}
