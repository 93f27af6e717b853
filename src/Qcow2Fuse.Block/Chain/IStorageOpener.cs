// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>Opens the storage that images lie in, and keeps the policy for the files that images name.</summary>
public interface IStorageOpener
{
    /// <summary>Opens a file the user named, which is trusted.</summary>
    /// <exception cref="BlockException">It does not exist, is not readable (or writable), or is of a kind that cannot
    /// hold an image.</exception>
    IStorageFile OpenNamed(string path, StorageAccess access);

    /// <summary>
    /// Opens a file that was opened with <see cref="OpenNamed"/> once more, in another way and without looking its
    /// name up again. References are resolved from the new one from now on; the old one can be closed.
    /// </summary>
    /// <exception cref="BlockException">It may not be opened so.</exception>
    IStorageFile Reopen(IStorageFile file, StorageAccess access);

    /// <summary>Opens a file an image named, which is not trusted.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Policy"/> if the policy refuses the name, with a
    /// cause that tells how to allow it; otherwise as <see cref="OpenNamed"/>.</exception>
    IStorageFile OpenReference(StorageReference reference, StorageAccess access);
}

/// <summary>An open file that can hold an image. Disposing its <see cref="Device"/> closes it.</summary>
public interface IStorageFile
{
    /// <summary>The bytes of the file.</summary>
    BlockDevice Device { get; }

    /// <summary>Where it was found, for messages. Not escaped.</summary>
    string Path { get; }

    /// <summary>What tells this file from all others.</summary>
    StorageIdentity Identity { get; }

    /// <summary>
    /// Says that no more names are looked up from where it was found: the storage need not remember that any longer.
    /// </summary>
    void LeaveDirectory();

    /// <summary>
    /// Says that this process is going to write to the file for as long as it is open. Another open file of the process
    /// cannot be the same one then, by whatever name it was found, and whether there are locks or not. At most once.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Locked"/>: one is already.</exception>
    void ClaimForWriting();

    /// <summary>
    /// Registers what the caller is going to do with the file, for as long as it is open, and refuses if another
    /// process forbids it. At most once.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Locked"/>: another process holds it.
    /// <see cref="BlockErrorKind.NotSupported"/>: the storage has no locks, and writing was wanted.</exception>
    void Lock(ImageLockMode mode);
}

/// <summary>A file that was made, or emptied, to become an image.</summary>
public interface INewFile : IStorageFile
{
    /// <summary>Closes a file that came to nothing; where it was made, it is removed.</summary>
    void Abandon();
}

/// <summary>Two files are the same if and only if these are equal.</summary>
/// <param name="Scheme">The kind of storage, such as <c>file</c>.</param>
/// <param name="Name">What tells a file of that kind from all others, whatever name it was opened by.</param>
public readonly record struct StorageIdentity(string Scheme, string Name);

/// <summary>How a file is opened.</summary>
/// <param name="ReadOnly">For reading only.</param>
/// <param name="Direct">Past the page cache of the host (O_DIRECT).</param>
public readonly record struct StorageAccess(bool ReadOnly, bool Direct);

/// <summary>A file named by an image.</summary>
/// <param name="Image">The open image that names it; names are looked up from where that one was found.</param>
/// <param name="Name">The name as the image holds it.</param>
/// <param name="Kind">What it is named for.</param>
/// <param name="AllowPaths">Directories besides the image's own in which backing files may lie.</param>
/// <param name="Layer">Number of the image in its chain; 0 is the one that the user named.</param>
public readonly record struct StorageReference(
    IStorageFile Image, string Name, ReferenceKind Kind, IReadOnlyList<string> AllowPaths, int Layer = 0);

/// <summary>What somebody may do with an image file, as far as others have to know.</summary>
[Flags]
public enum ImagePermissions
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>Read, relying on what is read to be what was written.</summary>
    ConsistentRead = 1,

    /// <summary>Write.</summary>
    Write = 2,

    /// <summary>Write the bytes that are there already.</summary>
    WriteUnchanged = 4,

    /// <summary>Change the size.</summary>
    Resize = 8,
}

/// <summary>What the holder of a file does with it, and what it forbids everybody else.</summary>
/// <param name="Held">What the holder does.</param>
/// <param name="Unshared">What nobody else may do meanwhile.</param>
public readonly record struct ImageLockMode(ImagePermissions Held, ImagePermissions Unshared)
{
    private const ImagePermissions Changes = ImagePermissions.Write | ImagePermissions.Resize;

    /// <summary>An image that is read.</summary>
    public static ImageLockMode Reader => new(ImagePermissions.ConsistentRead, Changes);

    /// <summary>An image that is written.</summary>
    public static ImageLockMode Writer => new(ImagePermissions.ConsistentRead | Changes, Changes);

    /// <summary>A raw file below an image, whose growth or writing by others QEMU does not forbid.</summary>
    public static ImageLockMode RawBacking => new(ImagePermissions.ConsistentRead, ImagePermissions.None);

    /// <summary>A data file that is read.</summary>
    public static ImageLockMode DataReader => new(ImagePermissions.ConsistentRead, ImagePermissions.Resize);

    /// <summary>A data file that is written.</summary>
    public static ImageLockMode DataWriter =>
        new(ImagePermissions.ConsistentRead | Changes, ImagePermissions.Resize);
}
