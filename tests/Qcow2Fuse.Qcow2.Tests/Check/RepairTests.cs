// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Check;

/// <summary>Repairs: afterwards all is right, and every byte of the disk is as before.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class RepairTests
{
    private const long Guest = 64 << 10;
    private const ulong DirtyBit = 1;

    public static TheoryData<string> Kinds => [.. QemuImages.Kinds];

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void Leaks_are_given_back(string kind)
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get(kind));
        if (!image.Header.ExternalData)
        {
            image.SetRefcount(image.End - image.ClusterSize, Math.Min(3, MaxOf(image)));
            image.Poke(image.L2At(Guest), 0);
            if (image.Header.ExtendedL2)
                image.Poke(image.L2At(Guest) + 8, 0);
        }

        else
        {
            image.SetRefcount(image.Header.L1Offset, 2);
        }

        // What the file does not have is not lost.
        image.SetRefcount(image.End + (3 * image.ClusterSize), 1);
        long leaks = image.Check().Leaks;
        Assert.InRange(leaks, 1, 3);

        DamagedImage repaired = Repair(image, ImageRepair.Leaks, out RepairResult result);

        Assert.Equal(leaks, result.LeaksFixed);
        Assert.True(result.After.IsClean);
        ShouldBeRight(image, repaired);
    }

    [SkippableFact]
    public void Leaks_are_given_back_although_other_refcounts_are_too_low()
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get("plain"));
        image.Poke(image.L2At(Guest), 0);
        image.SetRefcount(image.HostOf(2 << 20), 0);
        byte[] before = [.. image.Bytes];

        DamagedImage repaired = Repair(image, ImageRepair.Leaks, out RepairResult result);

        Assert.Equal(1, result.LeaksFixed);
        Assert.Equal((0, 2), (result.After.Leaks, result.After.Corruptions));
        Assert.Equal(1, before.Zip(repaired.Bytes).Count(static pair => pair.First != pair.Second));
    }

    [SkippableFact]
    public void Flags_are_put_right_with_the_leaks()
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get("snapshots"));
        image.Clear(image.L1At(0), DamagedImage.Copied);
        image.Poke(image.L2At(Guest), image.Peek(image.L2At(Guest)) ^ DamagedImage.Copied);
        image.Poke(image.L2At(1 << 20), DamagedImage.Copied);
        Assert.Equal(3, image.Check().Corruptions);

        DamagedImage repaired = Repair(image, ImageRepair.Leaks, out RepairResult result);

        Assert.Equal(3, result.CorruptionsFixed);
        ShouldBeRight(image, repaired);
    }

    /// <summary>
    /// Where a table cannot be followed, what it names looks unused. It must not be handed out again.
    /// </summary>
    [SkippableFact]
    public void Nothing_is_changed_where_more_than_refcounts_is_damaged()
    {
        QemuTools.RequireTool("qemu-img");
        int structural = 0;
        foreach ((string name, Damage damage) in Damages.All)
        {
            DamagedImage image = new(QemuImages.Get(damage.Kind));
            damage.Do(image);
            if (!image.Check().Findings.Any(
                static finding => finding.Kind is FindingKind.Overlap or FindingKind.InvalidEntry))
                continue;
            structural++;
            DamagedImage repaired = Repair(image, ImageRepair.Leaks, out RepairResult result);
            Assert.True(result.Refused is not null, name);
            Assert.True(image.Bytes.AsSpan().SequenceEqual(repaired.Bytes), name);

            using MemoryDevice file = image.ToDevice();
            BlockException failure = Assert.Throws<BlockException>(() => ImageRepair.Dirty(file));
            Assert.DoesNotContain('\n', failure.Message);
            Assert.True(image.Bytes.AsSpan().SequenceEqual(BytesOf(file)), name);
        }

        Assert.InRange(structural, 40, 200);
    }

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void Random_refcounts_of_a_dirty_image_are_put_right(string kind)
    {
        QemuTools.RequireTool("qemu-img");
        byte[] sound = QemuImages.Get(kind);
        for (ulong seed = 0; seed < 4; seed++)
        {
            DamagedImage image = Scrambled(sound, new SeededRandom(seed));
            DamagedImage repaired = Repair(image, ImageRepair.Dirty, out RepairResult result);
            Assert.True(result.After.IsClean);
            Assert.True(result.CorruptionsFixed > 0);
            ShouldBeRight(image, repaired);
        }
    }

    [SkippableTheory]
    [InlineData("plain")]
    [InlineData("512")]
    [InlineData("bits64")]
    [InlineData("bits1")]
    [InlineData("snapshots")]
    [InlineData("64k")]
    public void Blocks_that_are_missing_are_made(string kind)
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get(kind));
        MakeDirty(image);
        for (int i = 0; i < image.ClusterSize / 8; i++)
            image.Poke(image.RefcountEntryAt(i), 0);

        DamagedImage repaired = Repair(image, ImageRepair.Dirty, out _);

        ShouldBeRight(image, repaired);
    }

    /// <summary>All clusters a block counts are in use, so it cannot lie among them.</summary>
    [SkippableFact]
    public void A_block_without_room_among_its_own_clusters_goes_to_the_end()
    {
        QemuTools.RequireTool("qemu-img");
        const int PerBlock = 256;
        byte[] longer = QemuImages.Get("512");
        Array.Resize(ref longer, 2 * PerBlock * 512);
        DamagedImage image = new(longer);
        MakeDirty(image);
        ulong old = image.Peek(image.RefcountEntryAt(1));
        Assert.NotEqual(0UL, old);
        image.Poke(image.RefcountEntryAt(1), 0);
        HashSet<long> uses = Uses(image);
        Queue<long> elsewhere = new(Guests(image).Where(guest => image.HostOf(guest) / 512 / PerBlock != 1));
        for (long host = PerBlock * 512; host < 2 * PerBlock * 512; host += 512)
        {
            if (!uses.Contains(host))
                image.Poke(image.L2At(elsewhere.Dequeue()), (ulong)host);
        }

        DamagedImage repaired = Repair(image, ImageRepair.Dirty, out _);

        ShouldBeRight(image, repaired);
        Assert.NotInRange((long)repaired.Peek(repaired.RefcountEntryAt(1)), PerBlock * 512, (2 * PerBlock * 512) - 1);
    }

    [SkippableFact]
    public void A_refcount_table_that_is_too_short_is_left_alone()
    {
        QemuTools.RequireTool("qemu-img");
        const int CountedMax = 64 * 256 * 512;
        byte[] longer = QemuImages.Get("512");
        Array.Resize(ref longer, CountedMax + 512);
        DamagedImage image = new(longer);
        MakeDirty(image);
        image.Poke(image.L2At(Guest), CountedMax);
        using MemoryDevice file = image.ToDevice();

        BlockException failure = Assert.Throws<BlockException>(() => ImageRepair.Dirty(file));

        Assert.Contains("grow", failure.Message, StringComparison.Ordinal);
        Assert.Equal(image.Bytes, BytesOf(file));
    }

    [SkippableFact]
    public void A_refcount_that_does_not_fit_is_left_alone()
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get("bits1"));
        MakeDirty(image);
        image.Poke(image.L2At(Guest), image.Peek(image.L2At(Guest + 4096)));
        using MemoryDevice file = image.ToDevice();

        BlockException failure = Assert.Throws<BlockException>(() => ImageRepair.Dirty(file));

        Assert.Contains("references", failure.Message, StringComparison.Ordinal);
        Assert.Equal(image.Bytes, BytesOf(file));
    }

    [SkippableTheory]
    [InlineData("cluster_size=4k", "abort")]
    [InlineData("cluster_size=64k", "sigraise 9")]
    [InlineData("cluster_size=512", "abort")]
    [InlineData("extended_l2=on,cluster_size=16k", "abort")]
    [InlineData("cluster_size=2M", "sigraise 9")]
    public void An_image_that_QEMU_left_dirty_is_repaired_when_it_is_opened(string options, string end)
    {
        QemuTools.RequireTool("qemu-io");
        using TempDirectory directory = new();
        string path = directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options + ",lazy_refcounts=on", path, "8M");
        QemuTools.Io(path, "write -P 9 0 300k");
        string[] commands = ["write -P 1 64k 500k", "write -P 2 5M 200k", "flush", "write -P 3 3M 64k", end];
        _ = ProcessRunner.Run(
            "qemu-io", [.. commands.SelectMany(static word => new[] { "-c", word }), "-f", "qcow2", path]);
        DamagedImage image = new(File.ReadAllBytes(path));
        Assert.True(image.Header.Dirty);
        Assert.True(image.Check().Corruptions > 0, "QEMU has written the refcounts all the same");

        MemoryDevice file = image.ToDevice();
        file.ReadOnly = true;
        using (Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments { ReadOnly = true }))
            Assert.Equal(image.Plain.ReadAll(), ReadAll(device));

        file = image.ToDevice();
        List<ImageMessage> messages = [];
        byte[] repaired;
        using (Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments { Report = messages.Add }))
        {
            Assert.Contains("repaired", Assert.Single(messages).Text, StringComparison.Ordinal);
            repaired = BytesOf(file);
            device.Write(7 << 20, Stamp.Bytes(0, 10_000, 3));
        }

        ShouldBeRight(null, new DamagedImage(BytesOf(file)));
        ShouldBeRight(image, new DamagedImage(repaired));
    }

    [SkippableFact]
    public void A_dirty_image_that_cannot_be_repaired_is_not_opened_for_writing()
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get("plain"));
        MakeDirty(image);
        image.Or(image.L2At(Guest), 512);
        using MemoryDevice file = image.ToDevice();

        BlockException failure = Assert.Throws<BlockException>(
            () => Qcow2Device.Open(file, new FormatOpenArguments()));

        Assert.Contains("not aligned", failure.Message, StringComparison.Ordinal);
        Assert.True(failure.Cause?.Code is FailureCode.Damaged or FailureCode.DamagedSeeCheck);
        Assert.Equal(image.Bytes, BytesOf(file));
        using Qcow2Device device = Qcow2Device.Open(image.ToDevice(), new FormatOpenArguments { ReadOnly = true });
        device.Read(2 << 20, new byte[4096]);
    }

    [SkippableFact]
    public void A_sound_image_loses_its_marks()
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get("plain"));
        image.Poke(72, image.Peek(72) | 3);

        DamagedImage repaired = Repair(image, ImageRepair.Leaks, out _);

        Assert.Equal(0UL, repaired.Peek(72) & 3);
        Assert.Equal(1, image.Bytes.Zip(repaired.Bytes).Count(static pair => pair.First != pair.Second));
    }

    /// <summary>An image whose refcounts and flags are noise, marked dirty where there is such a mark.</summary>
    internal static DamagedImage Scrambled(byte[] sound, SeededRandom random)
    {
        DamagedImage image = new(sound);
        MakeDirty(image);
        ulong max = MaxOf(image);
        for (long host = 0; host < image.End; host += image.ClusterSize)
        {
            if (random.Chance(40))
                image.SetRefcount(host, Math.Min((ulong)random.Below(4), max));
        }

        for (long guest = 0; guest < 4 << 20; guest += image.ClusterSize)
        {
            if (image.TryL2At(guest) is { } entry && (image.Peek(entry) & (1UL << 62)) == 0
                && image.Peek(entry) >> 9 << 10 != 0 && random.Chance(30))
                image.Poke(entry, image.Peek(entry) ^ DamagedImage.Copied);
        }

        image.SetRefcount(0, 0);
        return image;
    }

    /// <summary>The repaired image passes all checks, and holds what it held.</summary>
    internal static void ShouldBeRight(DamagedImage? before, DamagedImage after)
    {
        Assert.Empty(after.Check().Findings);
        Assert.Equal(0, after.Theirs().ExitCode);
        PlainCheck plain = after.Plain.Check();
        Assert.Empty(plain.Errors);
        Assert.Equal(0, plain.Leaks);
        if (before is null)
            return;
        Assert.Equal(0UL, after.Header.Version == 2 ? 0 : after.Peek(72) & 3);
        if (after.Header.ExternalData)
            return;
        Assert.True(before.Plain.ReadAll().AsSpan().SequenceEqual(after.Plain.ReadAll()), "the disk has changed");
        foreach (PlainSnapshot snapshot in after.Plain.Snapshots())
        {
            Assert.True(
                before.Plain.At(snapshot).ReadAll().AsSpan().SequenceEqual(after.Plain.At(snapshot).ReadAll()),
                "a snapshot has changed");
        }
    }

    internal static byte[] BytesOf(BlockDevice file)
    {
        byte[] bytes = new byte[file.Length];
        file.Read(0, bytes);
        return bytes;
    }

    private static void MakeDirty(DamagedImage image)
    {
        if (image.Header.Version >= 3)
            image.Or(72, DirtyBit);
    }

    private static ulong MaxOf(DamagedImage image) =>
        image.Header.RefcountOrder == 6 ? ulong.MaxValue : (1UL << (1 << image.Header.RefcountOrder)) - 1;

    private static byte[] ReadAll(BlockDevice device)
    {
        byte[] bytes = new byte[device.Length];
        device.Read(0, bytes);
        return bytes;
    }

    private static HashSet<long> Uses(DamagedImage image)
    {
        HashSet<long> uses = [];
        for (int i = 0; i < image.ClusterSize / 8; i++)
            uses.Add((long)image.Peek(image.RefcountEntryAt(i)));
        for (int i = 0; i < image.Header.L1Entries; i++)
            uses.Add((long)(image.Peek(image.L1At(i)) & PlainReader.OffsetMask));
        for (long at = 0; at < image.Header.L1Entries * 8; at += 512)
            uses.Add(image.Header.L1Offset + at);
        foreach (long guest in Guests(image))
            uses.Add(image.HostOf(guest));
        return uses;
    }

    /// <summary>The clusters of the disk that have an L2 table.</summary>
    private static IEnumerable<long> Guests(DamagedImage image)
    {
        for (long guest = 0; guest < image.Header.Size; guest += image.ClusterSize)
        {
            if (image.TryL2At(guest) is not null)
                yield return guest;
        }
    }

    private static DamagedImage Repair(
        DamagedImage image, Func<BlockDevice, RepairResult> repair, out RepairResult result)
    {
        using MemoryDevice file = image.ToDevice();
        result = repair(file);
        return new DamagedImage(BytesOf(file));
    }
}
