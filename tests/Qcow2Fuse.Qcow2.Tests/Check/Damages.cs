// SPDX-License-Identifier: MIT

namespace Qcow2Fuse.Qcow2.Tests.Check;

/// <summary>How the two checks compare on a damage.</summary>
internal enum Agreement
{
    /// <summary>The same exit code and the same figures.</summary>
    Same,

    /// <summary>The same exit code. What QEMU counts depends on how it reads on after an entry it cannot use.</summary>
    SameCode,

    /// <summary>QEMU finds nothing, or only leaks; here it is a corruption.</summary>
    Stricter,

    /// <summary>QEMU gives up with exit code 1; here it is a corruption.</summary>
    Further,
}

/// <summary>Something done to an image of <see cref="QemuImages"/>.</summary>
internal sealed record Damage(string Kind, Agreement Agreement, Action<DamagedImage> Do);

/// <summary>The hand-made damages, by name.</summary>
internal static class Damages
{
    /// <summary>Guest offsets with data; in the first the whole cluster, in each image.</summary>
    private const long Guest = 64 << 10;
    private const long Next = 68 << 10;
    private const long Second = 2 << 20;
    private const ulong Far = 1UL << 40;
    private const ulong ZeroFlag = 1;
    private const ulong Offset = 0x00ff_ffff_ffff_fe00;

    public static IReadOnlyDictionary<string, Damage> All { get; } = Refcounts().Concat(Flags()).Concat(Mapping())
        .Concat(Compressed()).Concat(Tables()).Concat(Snapshots()).Concat(Bitmaps()).Concat(Extended())
        .ToDictionary(static pair => pair.Name, static pair => pair.Damage, StringComparer.Ordinal);

    private static (string Name, Damage Damage) Make(
        string name, string kind, Agreement agreement, Action<DamagedImage> action) =>
        (name, new Damage(kind, agreement, action));

    private static IEnumerable<(string Name, Damage Damage)> Refcounts()
    {
        const Agreement Same = Agreement.Same;
        foreach (string kind in new[] { "plain", "v2", "bits1", "bits4", "bits32", "bits64", "extended" })
            yield return Make($"data uncounted, {kind}", kind, Same, i => i.SetRefcount(i.HostOf(Guest), 0));
        foreach (string kind in new[] { "plain", "bits2", "bits8", "bits32", "bits64" })
            yield return Make($"data counted twice, {kind}", kind, Same, i => i.SetRefcount(i.HostOf(Guest), 2));
        yield return Make("data counted often", "plain", Same, i => i.SetRefcount(i.HostOf(Guest), 60000));
        yield return Make("data counted most", "bits64", Same, i => i.SetRefcount(i.HostOf(Guest), ulong.MaxValue));
        yield return Make("L2 table uncounted", "plain", Same,
            i => i.SetRefcount((long)(i.Peek(i.L1At(0)) & Offset), 0));
        yield return Make("L2 table twice", "plain", Same, i => i.SetRefcount((long)(i.Peek(i.L1At(0)) & Offset), 2));
        yield return Make("L1 table uncounted", "plain", Same, i => i.SetRefcount(i.Header.L1Offset, 0));
        yield return Make("L1 table five times", "plain", Same, i => i.SetRefcount(i.Header.L1Offset, 5));
        yield return Make("header uncounted", "plain", Same, static i => i.SetRefcount(0, 0));
        yield return Make("header counted thrice", "plain", Same, static i => i.SetRefcount(0, 3));
        yield return Make("table uncounted", "plain", Same, i => i.SetRefcount(i.Header.RefcountTableOffset, 0));
        yield return Make("block uncounted", "plain", Same, i => i.SetRefcount((long)i.Peek(i.RefcountEntryAt(0)), 0));
        yield return Make("block twice", "plain", Same, i => i.SetRefcount((long)i.Peek(i.RefcountEntryAt(0)), 2));
        yield return Make("leaked once", "plain", Same, i => i.Poke(i.L2At(Guest), 0));
        yield return Make("leaked twice", "64k", Same, static i =>
        {
            i.SetRefcount(i.HostOf(Guest), 2);
            i.Poke(i.L2At(Guest), 0);
        });
        yield return Make("shared cluster counted once", "snapshots", Same, i => i.SetRefcount(i.HostOf(Next), 1));
        yield return Make("shared cluster counted often", "snapshots", Same, i => i.SetRefcount(i.HostOf(Next), 9));
    }

    private static IEnumerable<(string Name, Damage Damage)> Flags()
    {
        const Agreement Same = Agreement.Same;
        const ulong Copied = DamagedImage.Copied;
        yield return Make("L1 not copied", "plain", Same, i => i.Clear(i.L1At(0), Copied));
        yield return Make("all L1 not copied", "plain", Same, static i =>
        {
            i.Clear(i.L1At(0), Copied);
            i.Clear(i.L1At(1), Copied);
        });
        foreach (string kind in new[] { "plain", "v2", "extended", "512", "2M", "data file" })
            yield return Make($"data not copied, {kind}", kind, Same, i => i.Clear(i.L2At(Guest), Copied));
        yield return Make("zero cluster not copied", "plain", Same, i => i.Clear(i.L2At(80 << 10), Copied));
        yield return Make("shared data copied", "snapshots", Same, i => i.Or(i.L2At(Second + (8 << 10)), Copied));
        yield return Make("flag alone", "plain", Agreement.Stricter, i => i.Poke(i.L2At(1 << 20), Copied));
        yield return Make("flag alone in L1", "plain", Agreement.SameCode, i => i.Poke(i.L1At(1), Copied));
    }

    private static IEnumerable<(string Name, Damage Damage)> Mapping()
    {
        const Agreement Same = Agreement.Same;
        yield return Make("L1 unaligned", "plain", Agreement.SameCode, i => i.Or(i.L1At(0), 512));
        yield return Make("L1 beyond the end", "plain", Agreement.SameCode, i => i.Poke(i.L1At(0), Far));
        yield return Make("L1 twice", "plain", Same, i => i.Poke(i.L1At(1), i.Peek(i.L1At(0))));
        yield return Make("L1 reserved low", "plain", Same, i => i.Or(i.L1At(0), 4));
        yield return Make("L1 reserved high", "64k", Same, i => i.Or(i.L1At(0), 1UL << 60));
        yield return Make("L1 to the L1", "plain", Agreement.SameCode,
            i => i.Poke(i.L1At(1), (ulong)i.Header.L1Offset));
        yield return Make("L1 to a block", "plain", Agreement.SameCode,
            i => i.Poke(i.L1At(1), i.Peek(i.RefcountEntryAt(0))));
        yield return Make("L1 to data", "plain", Agreement.SameCode, i => i.Poke(i.L1At(1), (ulong)i.HostOf(Guest)));
        yield return Make("L1 empty", "plain", Same, i => i.Poke(i.L1At(0), 0));
        yield return Make("data unaligned", "plain", Agreement.SameCode, i => i.Or(i.L2At(Guest), 512));
        yield return Make("zero cluster unaligned", "plain", Agreement.SameCode, i => i.Or(i.L2At(80 << 10), 512));
        yield return Make("data beyond the end", "plain", Agreement.SameCode, i => i.Poke(i.L2At(Guest), Far));
        yield return Make("data at the end", "plain", Agreement.SameCode, i => i.Poke(i.L2At(Guest), (ulong)i.End));
        yield return Make("counted data at the end", "plain", Agreement.SameCode, static i =>
        {
            i.SetRefcount(i.HostOf(Guest), 0);
            i.SetRefcount(i.End, 1);
            i.Poke(i.L2At(Guest), (ulong)i.End | DamagedImage.Copied);
        });
        yield return Make("data twice", "plain", Same, i => i.Poke(i.L2At(Guest), i.Peek(i.L2At(Next))));
        yield return Make("data reserved low", "plain", Same, i => i.Or(i.L2At(Guest), 2));
        yield return Make("data reserved high", "v2", Same, i => i.Or(i.L2At(Guest), 1UL << 57));
        yield return Make("empty entry reserved", "plain", Same, i => i.Poke(i.L2At(1 << 20), 1UL << 57));
        yield return Make("data in an L2 table", "plain", Same, i => i.Poke(i.L2At(Guest), i.Peek(i.L1At(1))));
        yield return Make("data in the header", "plain", Same,
            i => i.Poke(i.L2At(Guest), DamagedImage.Copied | (ulong)i.Header.L1Offset));
        yield return Make("data in a block", "plain", Same,
            i => i.Poke(i.L2At(Guest), DamagedImage.Copied | i.Peek(i.RefcountEntryAt(0))));
        yield return Make("data in the table", "plain", Same,
            i => i.Poke(i.L2At(Guest), DamagedImage.Copied | (ulong)i.Header.RefcountTableOffset));
        yield return Make("counted overlap", "plain", Agreement.Stricter, static i =>
        {
            long target = i.Header.L1Offset;
            i.SetRefcount(i.HostOf(Guest), 0);
            i.SetRefcount(target, 2);
            i.Poke(i.L2At(Guest), (ulong)target);
        });
        yield return Make("zero flag in version 2", "v2", Agreement.Stricter, i => i.Or(i.L2At(Guest), ZeroFlag));
        yield return Make("data file elsewhere", "data file", Agreement.Stricter,
            i => i.Poke(i.L2At(Guest), i.Peek(i.L2At(Next))));
        yield return Make("compressed in a data file", "data file", Same, i => i.Poke(i.L2At(Guest), 1UL << 62));
    }

    private static IEnumerable<(string Name, Damage Damage)> Compressed()
    {
        const Agreement Same = Agreement.Same;
        const ulong Bit = 1UL << 62;
        foreach (string kind in new[] { "compressed", "compressed, zstd", "compressed, extended" })
        {
            yield return Make($"gone, {kind}", kind, Same, static i => i.Poke(i.L2At(0), 0));
            yield return Make($"copied, {kind}", kind, Same, static i => i.Or(i.L2At(0), DamagedImage.Copied));
            yield return Make($"beyond the end, {kind}", kind, Agreement.SameCode,
            static i => i.Poke(i.L2At(0), Bit | Far));
        }

        yield return Make("compressed twice", "compressed", Same, i => i.Poke(i.L2At(0), i.Peek(i.L2At(256 << 10))));
        yield return Make("compressed over data", "compressed", Agreement.SameCode,
            i => i.Poke(i.L2At(0), Bit | (ulong)i.HostOf(Guest)));
        yield return Make("compressed with subclusters", "compressed, extended", Agreement.SameCode,
            static i => i.Poke(i.L2At(0) + 8, 1));
    }

    private static IEnumerable<(string Name, Damage Damage)> Tables()
    {
        yield return Make("block unaligned", "plain", Agreement.Further, i => i.Or(i.RefcountEntryAt(0), 512));
        yield return Make("block reserved", "plain", Agreement.SameCode, i => i.Or(i.RefcountEntryAt(0), 3));
        yield return Make("block beyond the end", "plain", Agreement.SameCode, i => i.Poke(i.RefcountEntryAt(0), Far));
        yield return Make("another block beyond the end", "plain", Agreement.Same,
            static i => i.Poke(i.RefcountEntryAt(3), Far));
        yield return Make("no block", "plain", Agreement.Same, static i => i.Poke(i.RefcountEntryAt(0), 0));
        yield return Make("block twice named", "plain", Agreement.Same,
            i => i.Poke(i.RefcountEntryAt(5), i.Peek(i.RefcountEntryAt(0))));
        yield return Make("data as block", "plain", Agreement.SameCode,
            i => i.Poke(i.RefcountEntryAt(5), (ulong)i.HostOf(Guest)));
        yield return Make("block on the L1 table", "plain", Agreement.SameCode,
            i => i.Poke(i.RefcountEntryAt(0), (ulong)i.Header.L1Offset));
    }

    private static IEnumerable<(string Name, Damage Damage)> Snapshots()
    {
        const string Kind = "snapshots";
        const Agreement Same = Agreement.Same;
        long Table(DamagedImage i) => i.Header.SnapshotTableOffset;
        yield return Make("snapshot's L1 uncounted", Kind, Same, static i => i.SetRefcount(i.SnapshotL1, 0));
        yield return Make("snapshot's L1 twice", Kind, Same, static i => i.SetRefcount(i.SnapshotL1, 2));
        yield return Make("snapshot table uncounted", Kind, Same, i => i.SetRefcount(Table(i), 0));
        yield return Make("snapshot table twice", Kind, Same, i => i.SetRefcount(Table(i), 2));
        yield return Make("snapshot's L1 beyond the end", Kind, Agreement.SameCode, i => i.Poke(Table(i), Far));
        yield return Make("snapshot's L1 unaligned", Kind, Agreement.Same, i => i.Or(Table(i), 512));
        yield return Make("snapshot's L1 too large", Kind, Agreement.Same, i => i.Poke(Table(i) + 8, 5 << 20, 4));
        yield return Make("snapshot's L1 empty", Kind, Same, i => i.Poke(Table(i) + 8, 0, 4));
        yield return Make("snapshot without extra data", Kind, Agreement.Further, i => i.Poke(Table(i) + 36, 8, 4));
        yield return Make("snapshot with much extra data", Kind, Agreement.Further,
            i => i.Poke(Table(i) + 36, 1500, 4));
        yield return Make("snapshot's entry beyond the end", Kind, Agreement.SameCode,
            static i => i.Poke(i.SnapshotL1, Far));
        yield return Make("snapshot's entry unaligned", Kind, Agreement.SameCode, static i => i.Or(i.SnapshotL1, 1024));
        yield return Make("snapshot's entry reserved", Kind, Same, static i => i.Or(i.SnapshotL1, 4));
        yield return Make("snapshot's entry gone", Kind, Agreement.Same, static i => i.Poke(i.SnapshotL1, 0));
        yield return Make("snapshot on the active L1", Kind, Agreement.SameCode,
            i => i.Poke(Table(i), (ulong)i.Header.L1Offset));
        yield return Make("shared table's entry reserved", Kind, Same, i => i.Or(i.L2At(Second + (8 << 10)), 2));
    }

    private static IEnumerable<(string Name, Damage Damage)> Bitmaps()
    {
        const string Kind = "bitmaps";
        const Agreement Same = Agreement.Same;
        long Directory(DamagedImage i) => i.Header.BitmapDirectory.Offset;
        yield return Make("bitmap table uncounted", Kind, Same, static i => i.SetRefcount(i.BitmapTable, 0));
        yield return Make("bitmap table twice", Kind, Same, static i => i.SetRefcount(i.BitmapTable, 2));
        yield return Make("directory uncounted", Kind, Same, i => i.SetRefcount(Directory(i), 0));
        yield return Make("bitmap table beyond the end", Kind, Agreement.SameCode, i => i.Poke(Directory(i), Far));
        yield return Make("bitmap table unaligned", Kind, Agreement.Further, i => i.Or(Directory(i), 512));
        yield return Make("bitmap of another type", Kind, Agreement.Further, i => i.Poke(Directory(i) + 16, 2, 1));
        yield return Make("bitmap's flags", Kind, Agreement.Further, i => i.Poke(Directory(i) + 12, 0x100, 4));
        yield return Make("bitmap's granularity", Kind, Agreement.Further, i => i.Poke(Directory(i) + 17, 63, 1));
        yield return Make("bitmap's entry reserved", Kind, Agreement.Further, static i => i.Or(i.BitmapTable, 4));
        yield return Make("bitmap's entry unaligned", Kind, Agreement.Further, static i => i.Or(i.BitmapTable, 1024));
        yield return Make("bitmap's entry beyond the end", Kind, Same, static i => i.Poke(i.BitmapTable, Far));
        yield return Make("bitmap's entry on data", Kind, Same, i => i.Poke(i.BitmapTable, (ulong)i.HostOf(Guest)));
        yield return Make("bitmaps not believed", Kind, Same, static i => i.Poke(88, 0));
        yield return Make("bitmaps without extension", "plain", Agreement.Stricter, static i => i.Poke(88, 1));
    }

    private static IEnumerable<(string Name, Damage Damage)> Extended()
    {
        const string Kind = "extended";
        yield return Make("subclusters both", Kind, Agreement.Same, i => i.Or(i.L2At(Guest) + 8, 1UL << 32 | 1));
        yield return Make("subclusters nowhere", Kind, Agreement.Same, i => i.Poke(i.L2At(1 << 20) + 8, 1));
        yield return Make("unaligned with subclusters", Kind, Agreement.SameCode, i => i.Or(i.L2At(Guest), 512));
        yield return Make("zero flag with subclusters", Kind, Agreement.Stricter, i => i.Or(i.L2At(Guest), ZeroFlag));
        yield return Make("reserved with subclusters", Kind, Agreement.Same, i => i.Or(i.L2At(Guest), 8));
    }
}
