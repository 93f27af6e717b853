// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Control.Messages;

/// <summary>The number of a device as status calls give it.</summary>
internal static class DeviceNumber
{
    /// <summary>The number of a device from <c>MAJOR:MINOR</c>; that of none for anything else.</summary>
    public static ulong Of(string text)
    {
        string[] parts = text.Split(':');
        return parts.Length == 2
            && uint.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out uint major)
            && uint.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out uint minor)
                ? (ulong)major << 32 | minor
                : ulong.MaxValue;
    }
}
