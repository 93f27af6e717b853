// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>The disk as it is now, for whoever copies a part of it.</summary>
internal interface IGuestReader
{
    /// <summary>
    /// Whether the range reads as zeroes as far as metadata can tell, here and in the backing chain. What lies beyond
    /// the end of the disk does.
    /// </summary>
    bool ReadsAsZero(GuestOffset guest, long length);

    /// <summary>Reads what a copied head or tail holds; zeroes beyond the end of the disk.</summary>
    void ReadForCopy(GuestOffset guest, Span<byte> destination);
}
