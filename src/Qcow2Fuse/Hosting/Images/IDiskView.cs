// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting.Images;

/// <summary>A file that shows a part of a disk, as the disk knows it: what the kernel may have cached of it.</summary>
internal interface IDiskView
{
    /// <summary>Number of its node; not 0.</summary>
    ulong Number { get; }

    /// <summary>Whether programs may have changed pages that the kernel has not written yet.</summary>
    bool MayHaveChangedPages { get; }

    /// <summary>Notifications that the kernel has done.</summary>
    long Delivered { get; }

    /// <summary>
    /// Asks the kernel to write what programs have changed in its pages, and to drop them, from an offset of the disk
    /// on.
    /// </summary>
    void AskForPages(long from);

    /// <summary>
    /// Drops what the kernel may have cached of a range of the disk, which was changed through another file.
    /// </summary>
    /// <returns>The notification that does it; 0 where the kernel holds nothing of it.</returns>
    long Forget(long start, long length);

    /// <summary>Drops the size that the kernel may have cached, and the pages from an offset of the disk on.</summary>
    /// <returns>The notification that does it; 0 where there is no kernel.</returns>
    long ForgetEnd(long start);
}
