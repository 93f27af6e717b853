// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Daemon;

/// <summary>From the settings of a mount to what the kernel is asked for.</summary>
internal static class MountRequest
{
    /// <summary>The request for <paramref name="images"/> on the absolute path <paramref name="directory"/>.</summary>
    public static MountSpec From(MountSettings settings, ImageSet images, string directory)
    {
        MountSpec spec = new()
        {
            MountPoint = directory,
            Source = settings.SourceName ?? images.Path,
            Subtype = OwnMount.Subtype,
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
