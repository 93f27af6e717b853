// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>Disk images of formats that are known by their magic and not read here, so that none is taken for raw.
/// </summary>
public static class ForeignFormat
{
    /// <summary>Bytes from the beginning of a file that <see cref="NameOf"/> wants to see.</summary>
    public const int HeadBytes = 512;

    private const int VdiMagicOffset = 0x40;

    /// <summary>The name qemu-img has for the format, or null where the bytes are of none that is known here.</summary>
    /// <param name="head">The first bytes of the file, fewer for a shorter one.</param>
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

    /// <summary>The failure of whoever was to read such a file.</summary>
    /// <param name="file">Its name for messages.</param>
    /// <param name="path">Its path, not escaped.</param>
    /// <param name="name">What <see cref="NameOf"/> says.</param>
    public static BlockException Refused(string file, string path, string name) => new(
        BlockErrorKind.UnsupportedFeature,
        $"{file}: is an image of the format {name}, which is not read here",
        cause: new(FailureCode.OtherFormat) { File = path, Name = name });

    /// <summary>Version 1; the later ones are qcow2's.</summary>
    private static ReadOnlySpan<byte> QcowMagic => [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 1];

    private static ReadOnlySpan<byte> VdiMagic => [0x7f, 0x10, 0xda, 0xbe];
}
