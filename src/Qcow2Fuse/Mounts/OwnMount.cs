// SPDX-License-Identifier: MIT
using System.Diagnostics.CodeAnalysis;
using Qcow2Fuse.Fuse.Mounting;

namespace Qcow2Fuse.Mounts;

/// <summary>What tells mounts of this program from others in the kernel's list.</summary>
internal static class OwnMount
{
    /// <summary>Mounts show as this type, with "fuse." in front.</summary>
    public const string Subtype = "qcow2fuse";

    /// <summary>Whether this program has made a mount; false where there is none.</summary>
    public static bool Is([NotNullWhen(true)] MountEntry? entry) => entry?.Type == "fuse." + Subtype;
}
