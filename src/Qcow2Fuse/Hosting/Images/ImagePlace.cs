// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>How the file of an image is found while it is mounted: never by its path, which may lead anywhere by then,
/// into the mount itself for instance.</summary>
internal abstract class ImagePlace : IDisposable
{
    /// <summary>Its absolute path, as it was when it was found; for messages.</summary>
    public abstract string Path { get; }

    /// <summary>What the file is now; null where there is none that would be opened.</summary>
    /// <exception cref="BlockException">The system does not tell.</exception>
    public abstract FileStatus? Look();

    /// <summary>Opens the file for reading, without locks.</summary>
    /// <exception cref="BlockException">It has gone, or may not be read.</exception>
    public abstract FileDevice Open();

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Lets go of what is held.</summary>
    protected abstract void Dispose(bool disposing);
}

/// <summary>The file that was opened for the mount, whatever its name.</summary>
internal sealed class FilePlace(FileAnchor anchor, string path) : ImagePlace
{
    /// <inheritdoc/>
    public override string Path => path;

    /// <inheritdoc/>
    public override FileStatus? Look() => anchor.Status;

    /// <inheritdoc/>
    public override FileDevice Open() => anchor.Open();

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => anchor.Dispose();
}

/// <summary>Whatever file has a name in a directory, which stays its owner's.</summary>
internal sealed class FolderPlace(ImageFolder folder, string name) : ImagePlace
{
    /// <inheritdoc/>
    public override string Path => System.IO.Path.Combine(folder.Path, name);

    /// <inheritdoc/>
    public override FileStatus? Look() => folder.Look(name);

    /// <inheritdoc/>
    public override FileDevice Open() => folder.Open(name);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        // All images of the directory have it.
    }
}
