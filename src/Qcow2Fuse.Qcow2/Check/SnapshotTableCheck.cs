// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>Checks the snapshot table, without what it names; specification section "Snapshots".</summary>
internal sealed class SnapshotTableCheck(CheckedImage image, CheckFindings findings)
{
    private const int SnapshotFieldsBytes = 40;
    private const int SnapshotExtraMin = 16;
    private const int SnapshotExtraMax = 1024;
    private const long SnapshotTableBytesMax = 64L << 20;
    private const uint SnapshotL1EntriesMax = (32 << 20) / 8;
    private const long AllL1EntriesMax = 64L << 20;

    /// <summary>Bytes of the table, as far as it could be read.</summary>
    public long TableBytes { get; private set; }

    /// <summary>The L1 tables that snapshots name, each of them once.</summary>
    public List<SnapshotL1> Read()
    {
        Dictionary<(long, int), uint> found = [];
        if (image.Header.SnapshotFault is { } fault)
        {
            if (findings.Noted(FindingKind.InvalidEntry))
                findings.Note(image.Header.SnapshotsOffset, fault.ReasonOrMessage);
            return [];
        }

        findings.Reading(image.Header.SnapshotsOffset, "snapshot table", () =>
        {
            long end = image.Header.SnapshotsOffset;
            for (int i = 0; i < image.Header.SnapshotCount && end >= 0; i++)
                end = ReadSnapshot(i, end, found);
        });
        if (found.Keys.Sum(static key => (long)key.Item2) > AllL1EntriesMax)
            throw new BlockException(
                BlockErrorKind.TooLarge,
                $"{image.File.Name}: the L1 tables of its snapshots are too large to be checked");
        return [.. found.Select(static pair => new SnapshotL1(pair.Key.Item1, pair.Key.Item2, pair.Value))];
    }

    /// <summary>Reads one entry; returns where the next begins, or −1 if it cannot be told.</summary>
    private long ReadSnapshot(int index, long place, Dictionary<(long, int), uint> found)
    {
        Span<byte> fields = stackalloc byte[SnapshotFieldsBytes];
        image.File.ReadPadded(place, fields);
        uint extra = BigEndian.U32(fields, 36);
        long end = place + SnapshotFieldsBytes + extra + BigEndian.U16(fields, 12) + BigEndian.U16(fields, 14);
        end = (end + 7) & ~7L;
        if (end - image.Header.SnapshotsOffset > SnapshotTableBytesMax || end - 7 > image.FileLength)
        {
            if (findings.Noted(FindingKind.InvalidEntry))
                findings.Note(place, $"snapshot {index} at 0x{place:x} goes beyond the end of the snapshot table");
            return -1;
        }

        TableBytes = end - image.Header.SnapshotsOffset;
        if ((extra > SnapshotExtraMax || (extra < SnapshotExtraMin && image.Header.Version >= 3))
            && findings.Noted(FindingKind.InvalidEntry))
            findings.Note(place, $"snapshot {index} at 0x{place:x} has {extra} bytes of extra data");
        ulong offset = BigEndian.U64(fields, 0);
        uint entries = BigEndian.U32(fields, 8);
        if (entries > SnapshotL1EntriesMax || offset > long.MaxValue / 2 || !image.IsAligned((long)offset))
        {
            if (findings.Noted(FindingKind.InvalidEntry))
                findings.Note(place, $"snapshot {index} at 0x{place:x} has an impossible L1 table of {entries} entries "
                    + $"at 0x{offset:x}");
            return end;
        }

        (long, int) key = ((long)offset, (int)entries);
        found[key] = found.GetValueOrDefault(key) + 1;
        return end;
    }

    /// <summary>An L1 table of snapshots.</summary>
    /// <param name="Offset">Host offset.</param>
    /// <param name="Entries">Its length.</param>
    /// <param name="Times">Snapshots that name it.</param>
    public readonly record struct SnapshotL1(long Offset, int Entries, uint Times);
}
