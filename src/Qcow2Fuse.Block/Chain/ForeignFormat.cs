// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Chain;

/// <summary>Disk images of formats that are known by their magic and not read here, so that none is taken for raw.
/// </summary>
internal static class ForeignFormat
{
    private const int VdiMagicOffset = 0x40;

    /// <summary>The name qemu-img has for the format, or null where the bytes are of none that is known here.</summary>
    /// <param name="head">The first bytes of the file, 512 or all of it.</param>
    public static string? NameOf(ReadOnlySpan<byte> head)
    {
        if (head.StartsWith("KDMV"u8) || head.StartsWith("COWD"u8) || head.StartsWith("# Disk DescriptorFile"u8))
            return "vmdk";
        if (head.StartsWith("conectix"u8))
            return "vpc";
        if (head.StartsWith("vhdxfile"u8))
            return "vhdx";
        if (head.StartsWith(QcowMagic))
            return "qcow";
        if (head.StartsWith("QED\0"u8))
            return "qed";
        if (head.StartsWith("WithoutFreeSpace"u8) || head.StartsWith("WithouFreSpacExt"u8))
            return "parallels";
        return head.Length > VdiMagicOffset && head[VdiMagicOffset..].StartsWith(VdiMagic) ? "vdi" : null;
    }

    /// <summary>Version 1; the later ones are qcow2's.</summary>
    private static ReadOnlySpan<byte> QcowMagic => [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 1];

    private static ReadOnlySpan<byte> VdiMagic => [0x7f, 0x10, 0xda, 0xbe];
}
