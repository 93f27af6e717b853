// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Schemes;

namespace Qcow2Fuse.Images.Opening;

/// <summary>What a file is opened for by itself, without what it names.</summary>
public enum ImageFileUse
{
    /// <summary>To look at it while nobody writes.</summary>
    Look,

    /// <summary>To look at it whoever else may be writing.</summary>
    LookAnyway,

    /// <summary>To change it while nobody else has it.</summary>
    Change,
}

/// <summary>Opens image files by themselves, with the locks that QEMU knows.</summary>
public static class ImageFile
{
    /// <summary>Opens a file and locks it for its use.</summary>
    /// <exception cref="BlockException">It cannot be opened, or somebody else uses it.</exception>
    public static BlockDevice Open(string path, ImageFileUse use)
    {
        StorageAccess access = new(ReadOnly: use != ImageFileUse.Change, Direct: false);
        IStorageFile file = StorageSchemes.Of(path).Opener().OpenNamed(path, access);
        try
        {
            file.LeaveDirectory();
            if (use != ImageFileUse.LookAnyway)
                file.Lock(use == ImageFileUse.Change ? ImageLockMode.Writer : ImageLockMode.Reader);
            return file.Device;
        }
        catch
        {
            file.Device.Dispose();
            throw;
        }
    }

    /// <summary>Opens an image with all the files it needs.</summary>
    /// <exception cref="BlockException">See <see cref="ImageOpener.Open"/>.</exception>
    public static OpenedImage OpenChain(ImageOpenOptions options) =>
        new ImageOpener(StorageSchemes.Of(options.Path).Opener(), ImageFormats.Openers).Open(options);

    /// <summary>The use of a verb that looks.</summary>
    /// <param name="forceShare">Whether the user wants to look whoever else may be writing.</param>
    public static ImageFileUse ToLook(bool forceShare) => forceShare ? ImageFileUse.LookAnyway : ImageFileUse.Look;
}
