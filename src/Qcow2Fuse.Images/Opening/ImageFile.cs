// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;

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
    public static FileDevice Open(string path, ImageFileUse use)
    {
        FileDevice file = FileDevice.Open(path, readOnly: use != ImageFileUse.Change);
        try
        {
            if (use != ImageFileUse.LookAnyway)
                file.Lock(use == ImageFileUse.Change ? ImageLockMode.Writer : ImageLockMode.Reader);
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>The use of a verb that looks.</summary>
    /// <param name="forceShare">Whether the user wants to look whoever else may be writing.</param>
    public static ImageFileUse ToLook(bool forceShare) => forceShare ? ImageFileUse.LookAnyway : ImageFileUse.Look;
}
