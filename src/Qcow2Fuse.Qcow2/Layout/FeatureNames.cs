// SPDX-License-Identifier: MIT
using System.Text;

namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>
/// The feature name table of new images, from which programs that do not know a feature can name it; specification
/// section "Feature name table".
/// </summary>
internal static class FeatureNames
{
    private const int EntryBytes = 48;

    /// <summary>In small clusters the table would leave too little room for names, as in QEMU.</summary>
    private const int ClusterBitsMin = 13;

    private const byte Incompatible = 0;
    private const byte Compatible = 1;
    private const byte Autoclear = 2;

    private static readonly (byte Kind, byte Bit, string Name)[] Known =
    [
        (Incompatible, 0, "dirty bit"),
        (Incompatible, 1, "corrupt bit"),
        (Incompatible, 2, "external data file"),
        (Incompatible, 3, "compression type"),
        (Incompatible, 4, "extended L2 entries"),
        (Compatible, 0, "lazy refcounts"),
        (Autoclear, 0, "bitmaps"),
        (Autoclear, 1, "raw external data"),
    ];

    /// <summary>Writes the extension where the image gets one; returns how many bytes it takes.</summary>
    public static int Write(Span<byte> bytes, Qcow2Header header)
    {
        if (header.Version < 3 || header.ClusterBits < ClusterBitsMin)
            return 0;
        BigEndian.U32(bytes, 0, HeaderExtension.FeatureNames);
        BigEndian.U32(bytes, 4, (uint)(Known.Length * EntryBytes));
        int at = 8;
        foreach ((byte kind, byte bit, string name) in Known)
        {
            bytes[at] = kind;
            bytes[at + 1] = bit;
            Encoding.ASCII.GetBytes(name, bytes[(at + 2)..]);
            at += EntryBytes;
        }

        return at;
    }
}
