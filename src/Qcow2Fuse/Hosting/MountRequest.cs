// SPDX-License-Identifier: MIT
using Qcow2Fuse.Commands;
using Qcow2Fuse.Fuse;

namespace Qcow2Fuse.Hosting;

/// <summary>From the settings of a mount to what the kernel is asked for.</summary>
internal static class MountRequest
{
    /// <summary>Mounts show as this type, with "fuse." in front.</summary>
    public const string Subtype = "qcow2fuse";

    /// <summary>The request for <paramref name="images"/> on the absolute path <paramref name="directory"/>.</summary>
    public static MountSpec From(MountSettings settings, ImageSet images, string directory)
    {
        MountSpec spec = new()
        {
            MountPoint = directory,
            Source = settings.SourceName ?? images.Path,
            Subtype = Subtype,
            AllowOther = settings.AllowOther || settings.AllowRoot,
            DefaultPermissions = settings.DefaultPermissions || settings.AllowOther || settings.AllowRoot,
            MaxRead = settings.ReadBytesMax,
            AutoUnmount = settings.AutoUnmount,
            SecurityOptions = settings.SecurityOptions,
        };
        if (settings.ReadOnly || images.IsReadOnly)
            spec = spec with { Flags = spec.Flags | MountFlags.ReadOnly };
        return WithFlags(spec, settings);
    }

    /// <summary>A request with the flags of mount(8) that were given.</summary>
    public static MountSpec WithFlags(MountSpec spec, MountSettings settings)
    {
        foreach (string word in settings.KernelFlags)
        {
            // mount.fuse3 adds "dev,suid" for root unasked; what a raw file shows has no use for either.
            if (word is not ("dev" or "suid"))
                _ = spec.TryApply(word, value: null, out spec);
        }

        return spec;
    }
}
