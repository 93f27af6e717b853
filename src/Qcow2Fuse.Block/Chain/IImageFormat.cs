// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>An image format: how to recognise it, what other files it names, and how to open it.</summary>
public interface IImageFormat
{
    /// <summary>The name users type and backing-format fields hold: <c>qcow2</c>, <c>raw</c>.</summary>
    string Name { get; }

    /// <summary>Whether the first bytes of a file (512, fewer for a shorter file) are of this format.</summary>
    bool Probe(ReadOnlySpan<byte> head);

    /// <summary>
    /// Reads the header of <paramref name="file"/> and says what else is needed to open it. Opens and writes nothing.
    /// </summary>
    /// <exception cref="BlockException">The header is invalid, or uses something not supported.</exception>
    ImageReferences Inspect(BlockDevice file);

    /// <summary>
    /// Opens the image in <paramref name="file"/>. The device owns <paramref name="file"/> and the devices in
    /// <paramref name="arguments"/> once this returns; on an exception they stay the caller's.
    /// </summary>
    BlockDevice Open(BlockDevice file, FormatOpenArguments arguments);
}
