// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Runs of one kind over many clusters, for walks over the whole disk, active or a snapshot's.</summary>
/// <remarks>Called without the gate; what it remembers of tables is used with the gate held.</remarks>
internal sealed class RunFinder(ImageCore image, MetadataTables tables, ClusterLookup lookup)
{
    /// <summary>L1 entries that are looked at while the gate is held.</summary>
    private const int EntriesAtOnce = 1 << 15;

    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;
    private readonly TableKinds _kinds = new();

    /// <summary>
    /// The run at <paramref name="guest"/>; called without the gate, which is taken for one slice of a table, or some
    /// thousand L1 entries, at a time. Looks into one table that nothing is known of, and then stops.
    /// </summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.Corrupt"/> for an entry that is invalid.</exception>
    public DeviceRun FindRun(GuestOffset guest, long length, bool joinsUnstored)
    {
        GuestOffset end = guest + length;
        GuestOffset at = guest;
        RunKind? kind = null;
        TableScan scan = default;
        while (at.Value < end.Value)
        {
            RunKind found;
            long step;
            bool isScanned;
            try
            {
                using (_gate.Enter())
                {
                    (step, found, isScanned) = Step(at, end - at, joinsUnstored);
                    scan = isScanned ? Continue(scan, at, step, found) : default;
                }
            }
            catch (BlockException) when (kind is not null)
            {
                // Whoever asks for the rest is told what is wrong with it.
                break;
            }

            RunKind? joined = kind is { } known ? Joined(known, found, joinsUnstored) : found;
            if (joined is null)
                break;
            kind = joined;
            at += step;
            if (isScanned && (at.Value & (_geometry.L2Coverage - 1)) == 0)
                break;
        }

        return new DeviceRun(at - guest, kind!.Value);
    }

    /// <summary>What two neighbouring runs are together; null where they are not one.</summary>
    private static RunKind? Joined(RunKind first, RunKind second, bool joinsUnstored)
    {
        if (first == second)
            return first;
        return joinsUnstored && first != RunKind.Stored && second != RunKind.Stored ? RunKind.Unstored : null;
    }

    /// <summary>
    /// The first part of a run: L1 entries without a table or with tables whose kind is known, or else what one slice
    /// holds.
    /// </summary>
    private (long Length, RunKind Kind, bool IsScanned) Step(GuestOffset guest, long length, bool joinsUnstored)
    {
        GuestOffset end = guest + length;
        RunKind? kind = null;
        GuestOffset at = guest;
        for (int i = 0; i < EntriesAtOnce && at.Value < end.Value; i++)
        {
            if (KindAt(at, joinsUnstored) is not { } next)
                break;
            RunKind? joined = kind is { } known ? Joined(known, next, joinsUnstored) : next;
            if (joined is null)
                break;
            kind = joined;
            at = new GuestOffset(Math.Min(at.Value | (_geometry.L2Coverage - 1), end.Value - 1) + 1);
        }

        if (kind is not null)
            return (at - guest, kind.Value, false);
        return ScanSlice(guest, Math.Min(length, _geometry.BytesToSliceEnd(guest)), joinsUnstored);
    }

    /// <summary>The kind of all that an L1 entry maps; null where its table has to be looked at.</summary>
    private RunKind? KindAt(GuestOffset guest, bool joinsUnstored)
    {
        long table = lookup.TableAt(guest);
        if (table == 0)
            return RunKind.Unallocated;
        RunKind? kind = _kinds.Find(table, tables.L2.Changes);
        return kind == RunKind.Unstored && !joinsUnstored ? null : kind;
    }

    /// <summary>The first run of a slice, which is loaded with the gate released where it is not in memory.</summary>
    private (long Length, RunKind Kind, bool IsScanned) ScanSlice(GuestOffset guest, long length, bool joinsUnstored)
    {
        if (!lookup.TryGetSlice(guest, out CachedTable slice))
            return (length, RunKind.Unallocated, false);
        using (slice)
        {
            long covered = 0;
            RunKind? kind = null;
            while (covered < length)
            {
                ReadMapping mapping;
                try
                {
                    mapping = lookup.LookupIn(slice.Bytes, guest + covered, length - covered);
                }
                catch (BlockException) when (kind is not null)
                {
                    break;
                }

                RunKind next = RunKindOf(mapping.Kind);
                RunKind? joined = kind is { } known ? Joined(known, next, joinsUnstored) : next;
                if (joined is null)
                    break;
                kind = joined;
                covered += mapping.Length;
            }

            return (covered, kind!.Value, true);
        }
    }

    private static RunKind RunKindOf(MappingKind kind) => kind switch
    {
        MappingKind.Zero => RunKind.Zero,
        MappingKind.Unallocated => RunKind.Unallocated,
        _ => RunKind.Stored,
    };

    /// <summary>
    /// Remembers the kind of a table that was seen wholly, from its first byte to its last, while no table changed.
    /// </summary>
    private TableScan Continue(TableScan scan, GuestOffset guest, long length, RunKind kind)
    {
        long changes = tables.L2.Changes;
        ulong entry = lookup.L1[_geometry.L1Index(guest)];
        bool isFirst = (guest.Value & (_geometry.L2Coverage - 1)) == 0;
        if (isFirst)
            scan = new TableScan(guest, kind, entry, changes);
        else if (scan.Next.Value != guest.Value || scan.Entry != entry || scan.Changes != changes)
            return default;
        if (Joined(scan.Kind, kind, joinsUnstored: true) is not { } joined)
            return default;
        scan = scan with { Kind = joined, Next = guest + length };
        if ((scan.Next.Value & (_geometry.L2Coverage - 1)) == 0)
            _kinds.Set((long)(entry & L1Entry.OffsetMask), joined, changes);
        return scan;
    }

    /// <summary>A table that is being looked at from its beginning.</summary>
    private readonly record struct TableScan(GuestOffset Next, RunKind Kind, ulong Entry, long Changes);
}
