// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Qcow2.Device;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>What files of an image say of it.</summary>
internal static class ImageAttributes
{
    /// <summary>The extended attributes of its files.</summary>
    public static IReadOnlyList<(string Name, string Value)> Of(HostedImage image)
    {
        (string format, Qcow2HeaderInfo? known) = image.ReadHeader();
        List<(string, string)> attributes =
        [
            ("user.qcow2fuse.image", image.Path),
            ("user.qcow2fuse.format", format),
            ("user.qcow2fuse.virtual-size", image.Length.ToString(CultureInfo.InvariantCulture)),
        ];
        if (known is { } header)
        {
            attributes.Add(
                ("user.qcow2fuse.cluster-size", header.ClusterSize.ToString(CultureInfo.InvariantCulture)));
            if (header.BackingFile is { } backing)
                attributes.Add(("user.qcow2fuse.backing-file", backing));
        }

        return attributes;
    }

    /// <summary>A time that the kernel gives, in ticks of UTC.</summary>
    public static long TicksOf(FuseTime time)
    {
        long latest = (DateTime.MaxValue - DateTime.UnixEpoch).Ticks / TimeSpan.TicksPerSecond;
        long seconds = Math.Clamp(time.Seconds, 0, latest - 1);
        return DateTime.UnixEpoch.Ticks + (seconds * TimeSpan.TicksPerSecond) + (time.Nanoseconds / 100);
    }
}
