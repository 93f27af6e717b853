// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Commands;

/// <summary>What the first bytes of a file say it is, for commands that read it where no format is named.</summary>
internal static class ImageHead
{
    /// <summary>Whether a file is a qcow2 image; one of no format with a magic is raw.</summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.UnsupportedFeature"/>: it is of a format that is known by its magic only. What a guest
    /// sees of such a file is not the file. <see cref="BlockErrorKind.InvalidFormat"/>: it is known to be no disk.
    /// </exception>
    public static bool IsQcow2(BlockDevice file)
    {
        byte[] head = new byte[(int)Math.Min(file.Length, ForeignFormat.HeadBytes)];
        file.Read(0, head);
        if (new Qcow2Format().Probe(head))
            return true;
        if (ForeignFormat.NameOf(head) is { } name)
            throw ForeignFormat.Refused(file.Name, file.Name, name);
        return FileSignature.Refusal(file.Name, file.Name, head) is { } refusal ? throw refusal : false;
    }
}
