// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// The files that this process writes as images. Two caches of the metadata of one image would destroy it; where locks
/// are taken they refuse the second one too, but a file system may have none, and the user may want none.
/// </summary>
internal static class WrittenFiles
{
    private static readonly Dictionary<FileIdentity, FileDevice> Files = [];

    /// <summary>Adds an open file, until <see cref="Remove"/>.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Locked"/>: it is there, by this or another name.
    /// </exception>
    public static void Add(FileDevice file)
    {
        lock (Files)
        {
            if (Files.TryAdd(file.HostIdentity, file))
                return;
            throw new BlockException(
                BlockErrorKind.Locked,
                $"{file.Name}: is open for writing in this process already, as {Files[file.HostIdentity].Name}");
        }
    }

    /// <summary>Says that it is closed.</summary>
    public static void Remove(FileIdentity identity)
    {
        lock (Files)
            Files.Remove(identity);
    }
}
