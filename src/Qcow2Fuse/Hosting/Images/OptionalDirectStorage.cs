// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// Opens files past the page cache where their file system can do that, and others through it: for commands that prefer
/// O_DIRECT where the user has not asked for it.
/// </summary>
/// <param name="inner">What opens files.</param>
internal sealed class OptionalDirectStorage(IStorageOpener inner) : IStorageOpener
{
    private readonly List<ImageMessage> _messages = [];

    /// <summary>What has been opened through the page cache.</summary>
    public IReadOnlyList<ImageMessage> Messages => _messages;

    /// <inheritdoc/>
    public IStorageFile OpenNamed(string path, StorageAccess access) =>
        Open(access, path, () => inner.OpenNamed(path, access), buffered => inner.OpenNamed(path, buffered));

    /// <inheritdoc/>
    public IStorageFile Reopen(IStorageFile file, StorageAccess access) =>
        Open(access, file.Path, () => inner.Reopen(file, access), buffered => inner.Reopen(file, buffered));

    /// <inheritdoc/>
    public IStorageFile OpenReference(StorageReference reference, StorageAccess access) => Open(
        access, reference.Name, () => inner.OpenReference(reference, access),
        buffered => inner.OpenReference(reference, buffered));

    private IStorageFile Open(
        StorageAccess access, string name, Func<IStorageFile> open, Func<StorageAccess, IStorageFile> openBuffered)
    {
        try
        {
            return open();
        }
        catch (BlockException exception) when (access.Direct && exception.Kind == BlockErrorKind.NotSupported)
        {
            IStorageFile file = openBuffered(access with { Direct = false });
            string text =
                $"{Printable.Text(name)}: its file system has no O_DIRECT: the page cache of the host is used";
            if (!_messages.Exists(message => string.Equals(message.Text, text, StringComparison.Ordinal)))
                _messages.Add(new ImageMessage(text, FailureCode.DirectAccessLeft));
            return file;
        }
    }
}
