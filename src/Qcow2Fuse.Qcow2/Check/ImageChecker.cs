// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>
/// Looks for contradictions in the metadata of an image that nobody has open for writing. What is reported is what
/// <c>qemu-img check</c> reports, and more where the specification is clear: uses of a cluster that exclude each
/// other, clusters that begin at the end of the file, and reserved bits everywhere. Refcounts of clusters beyond the
/// end are no leaks: they take no space.
/// </summary>
public static class ImageChecker
{
    /// <summary>Checks the image in <paramref name="file"/>. Opens no other file and changes nothing.</summary>
    /// <param name="file">The image file.</param>
    /// <param name="memory">Where memory for counts is taken from; null for no other bound than 1 GiB.</param>
    /// <exception cref="BlockException">
    /// It cannot be checked: the header is invalid, or its tables are larger than this program counts.
    /// </exception>
    public static CheckResult Check(BlockDevice file, MemoryBudget? memory = null)
    {
        using CheckRun run = new(file, memory: memory);
        return run.Run();
    }
}
