// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Testing.Model;

namespace Qcow2Fuse.Testing.Sweep;

/// <summary>What a disk may hold on which one request fails: now, and after it is closed and opened again.</summary>
/// <param name="content">What it holds at the start, durably.</param>
public sealed class SweepDisk(byte[] content)
{
    private readonly List<(long Offset, byte[] Bytes)> _sinceFlush = [];
    private readonly HashSet<long> _sizes = [content.LongLength];
    private byte[] _durable = [.. content];

    /// <summary>What reads must return.</summary>
    public byte[] Live { get; private set; } = [.. content];

    /// <summary>What a step does to the bytes of its range: null where it changes none.</summary>
    public (long Offset, byte[] Bytes)? EffectOf(ModelStep step, ulong tag)
    {
        long offset = Math.Min(step.Offset, Live.LongLength);
        byte[] bytes = new byte[Math.Min(step.Length, Live.LongLength - offset)];
        if (step.Kind == "write")
            Stamp.Fill(bytes, offset, tag + (ulong)step.Number);
        return step.Kind is "write" or "zero" or "unmap" or "discard" ? (offset, bytes) : null;
    }

    /// <summary>
    /// Looks at the disk after a step over a range. Where the step succeeded its effect is there; where it failed, or
    /// was a discard, each byte of the range is the old or the new one. No other byte changes.
    /// </summary>
    /// <returns>What is wrong, or null.</returns>
    public string? Changed(BlockDevice device, long offset, byte[] effect, bool mayBeOld)
    {
        _sinceFlush.Add((offset, effect));
        if (!mayBeOld)
        {
            effect.CopyTo(Live.AsSpan((int)offset));
            return null;
        }

        byte[] seen = new byte[effect.Length];
        device.Read(offset, seen);
        for (int i = 0; i < seen.Length; i++)
        {
            if (seen[i] != effect[i] && seen[i] != Live[offset + i])
                return Text($"byte {offset + i} is neither the old one nor the new one");
        }

        seen.CopyTo(Live, offset);
        return null;
    }

    /// <summary>Takes a new size, whose new part is zero.</summary>
    public void Resized(long size)
    {
        _sizes.Add(size);
        byte[] live = Live;
        Array.Resize(ref live, (int)size);
        Live = live;
    }

    /// <summary>Says that a size was asked for and may be found after opening the image again.</summary>
    public void MayHaveSize(long size) => _sizes.Add(size);

    /// <summary>A flush succeeded: what the disk holds is durable.</summary>
    public void Flushed()
    {
        _durable = [.. Live];
        _sinceFlush.Clear();
        _sizes.Clear();
        _sizes.Add(Live.LongLength);
    }

    /// <summary>What is wrong with what reads return, or null.</summary>
    public string? Compare(BlockDevice device)
    {
        byte[] seen = new byte[Live.Length];
        device.Read(0, seen);
        int same = seen.AsSpan().CommonPrefixLength(Live);
        return same == seen.Length ? null : Text($"byte {same} is 0x{seen[same]:x2}, expected 0x{Live[same]:x2}");
    }

    /// <summary>
    /// What is wrong with a disk that was closed after a failure and opened again, or null: every byte is the durable
    /// one, or one that was written since. Takes what it holds as durable.
    /// </summary>
    public string? Reopened(BlockDevice device, bool mustBeLive)
    {
        if (mustBeLive ? device.Length != Live.LongLength : !_sizes.Contains(device.Length))
            return Text($"opened again the disk has {device.Length} bytes");
        if (mustBeLive)
            return Compare(device);
        byte[] seen = new byte[device.Length];
        device.Read(0, seen);
        for (int at = 0; at < seen.Length; at++)
        {
            if (at < Live.Length && seen[at] == Live[at])
                continue;
            bool isDurable = at < _durable.Length ? seen[at] == _durable[at] : seen[at] == 0;
            bool isNewSpace = _sizes.Count > 1 && seen[at] == 0;
            if (!isDurable && !isNewSpace && !_sinceFlush.Exists(one => Holds(one, at, seen[at])))
                return Text($"opened again byte {at} is 0x{seen[at]:x2}, which was never there or is outdated");
        }

        Live = seen;
        return null;
    }

    private static bool Holds((long Offset, byte[] Bytes) one, int at, byte value) =>
        at >= one.Offset && at < one.Offset + one.Bytes.Length && one.Bytes[at - one.Offset] == value;

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
