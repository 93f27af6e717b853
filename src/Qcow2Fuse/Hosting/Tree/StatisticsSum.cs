// SPDX-License-Identifier: MIT
using System.Diagnostics;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>
/// Adds up what the disks of a mount have and could still take. Each asking looks at as many images as the time allows,
/// going on where the last one ended, and takes what is known of the others: of some hundreds all are looked at.
/// </summary>
internal sealed class StatisticsSum
{
    private int _next;

    /// <summary>How long images are looked at.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromMilliseconds(20);

    /// <summary>Bytes of all disks, and those of them that are not allocated.</summary>
    public (ulong Size, ulong Free) Of(IReadOnlyList<ImageNodes> images)
    {
        long started = Stopwatch.GetTimestamp();
        int next = Volatile.Read(ref _next);
        int looked = 0;
        ulong size = 0;
        ulong free = 0;
        for (int i = 0; i < images.Count; i++)
        {
            ImageNodes image = images[(int)(((uint)next + (uint)i) % (uint)images.Count)];

            // One at least, so that all have their turn.
            bool looks = i == 0 || (looked == i && Stopwatch.GetElapsedTime(started) < Patience);
            looked += looks ? 1 : 0;
            (long length, long allocated) = looks
                ? (image.Raw.Length, image.Raw.AllocatedBytes)
                : image.Raw.LastKnown;
            size += (ulong)length;
            free += (ulong)Math.Max(length - allocated, 0);
        }

        Volatile.Write(ref _next, images.Count == 0 ? 0 : (int)(((uint)next + (uint)looked) % (uint)images.Count));
        return (size, free);
    }
}
