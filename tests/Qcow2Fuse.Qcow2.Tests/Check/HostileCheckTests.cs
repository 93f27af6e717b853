// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Check;

/// <summary>
/// Whatever the bytes of an image, the check ends soon, with a result or with a <see cref="BlockException"/>.
/// </summary>
public sealed class HostileCheckTests
{
    private const int DiskBytes = 1 << 20;
    private static readonly TimeSpan TimeMax = TimeSpan.FromSeconds(60);

    [Theory]
    [InlineData(4096, false, 1UL)]
    [InlineData(512, false, 2UL)]
    [InlineData(16384, true, 3UL)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Random_damage_is_reported_or_refused(int clusterSize, bool extendedL2, ulong seed)
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions
        {
            Size = DiskBytes,
            ClusterSize = clusterSize,
            ExtendedL2 = extendedL2,
        });
        image.Write(0, 200_000, 1).Write(500_000, 100_000, 2).Close();
        byte[] sound = image.Disk.Current.ToArray();
        SeededRandom random = new(seed);
        int found = 0;
        for (int i = 0; i < 1500; i++)
        {
            DamagedImage damaged = new(sound);
            for (int changes = 1 + random.Below(4); changes > 0; changes--)
                Change(damaged.Bytes, random, clusterSize);
            using MemoryDevice file = damaged.ToDevice();
            if (Check(file) is { IsClean: false } result)
            {
                found++;
                Assert.DoesNotContain(result.Findings, static finding => finding.Text.Contains('\n'));
            }

            Repair(file, sound);
        }

        Assert.InRange(found, 150, 1500);
    }

    /// <summary>Every entry of the largest L1 table names one L2 table, and all of that name one cluster.</summary>
    [Theory]
    [InlineData(9)]
    [InlineData(16)]
    public void Entries_without_number_that_name_one_table_are_read_once(int clusterBits)
    {
        using MemoryDevice file = MakeHuge(clusterBits, l1Entries: 4 << 20, out long l1, out long free);
        byte[] entries = new byte[1 << 20];
        for (int i = 0; i < entries.Length; i += 8)
            BigEndian64(entries.AsSpan(i), (ulong)free);
        for (int i = 0; i < 32; i++)
            file.Write(l1 + ((long)i << 20), entries);
        byte[] table = new byte[1 << clusterBits];
        for (int i = 0; i < table.Length; i += 8)
            BigEndian64(table.AsSpan(i), (ulong)free + (1UL << clusterBits));
        file.Write(free, table);
        file.Write(free + (1 << clusterBits), table);

        CheckResult result = Timed(file);

        Assert.True(result.Corruptions > 0);
    }

    /// <summary>4 Mi L1 entries name 4 Mi places in a hole.</summary>
    [Fact]
    public void Tables_in_holes_are_not_read()
    {
        using MemoryDevice file = MakeHuge(21, l1Entries: 1 << 18, out long l1, out long free);
        byte[] entries = new byte[(1 << 18) * 8];
        for (int i = 0; i < entries.Length / 8; i++)
            BigEndian64(entries.AsSpan(i * 8), (ulong)free + ((ulong)i << 22));
        file.Write(l1, entries);
        file.Resize(1L << 42);

        CheckResult result = Timed(file);

        Assert.True(result.Corruptions > 1 << 17);
        Assert.Equal(CheckResult.FindingsMax, result.Findings.Count);
    }

    /// <summary>One L2 table scatters its references over a file of 16 TiB.</summary>
    [Fact]
    [Trait(Speed.Name, Speed.Slow)]
    public void Scattered_references_are_refused_at_a_bound()
    {
        using MemoryDevice file = MakeHuge(21, l1Entries: 8, out long l1, out long free);
        for (int t = 0; t < 8; t++)
        {
            byte[] entry = new byte[8];
            BigEndian64(entry, (ulong)free + ((ulong)t << 21));
            file.Write(l1 + (t * 8), entry);
            byte[] table = new byte[1 << 21];
            for (int i = 0; i < table.Length / 8; i++)
                BigEndian64(table.AsSpan(i * 8), (1UL << 40) + ((ulong)((t << 18) + i) << 34));
            file.Write(free + ((long)t << 21), table);
        }

        file.Resize((1L << 55) + (1 << 21));
        ProcessorWatch time = ProcessorWatch.StartNew();
        BlockException failure = Assert.Throws<BlockException>(() => ImageChecker.Check(file));
        Assert.Equal(BlockErrorKind.TooLarge, failure.Kind);
        time.ShouldBeBelow(TimeMax);
    }

    [Fact]
    public void A_disk_of_64_TiB_costs_what_its_tables_cost()
    {
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = 64L << 40 });
        Assert.True(Timed(file).IsClean);
    }

    /// <summary>16 Mi clusters of 64 KiB, all of them mapped and counted.</summary>
    [Fact]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_full_disk_of_1_TiB_is_checked_by_its_tables()
    {
        const int ClusterBits = 16;
        const long Clusters = 1L << 24;
        using MemoryDevice file = MakeHuge(ClusterBits, l1Entries: 2048, out long l1, out long free);
        long tables = free, blocks = tables + (2048L << ClusterBits), data = blocks + (600L << ClusterBits);
        byte[] cluster = new byte[1 << ClusterBits];
        byte[] l1Table = new byte[2048 * 8];
        for (int t = 0; t < 2048; t++)
        {
            BigEndian64(l1Table.AsSpan(t * 8), DamagedImage.Copied | (ulong)(tables + ((long)t << ClusterBits)));
            for (int i = 0; i < 8192; i++)
            {
                long host = data + (((t * 8192L) + i) << ClusterBits);
                BigEndian64(cluster.AsSpan(i * 8), DamagedImage.Copied | (ulong)host);
            }

            file.Write(tables + ((long)t << ClusterBits), cluster);
        }

        file.Write(l1, l1Table);
        long all = (data >> ClusterBits) + Clusters;
        long needed = (all + 32767) / 32768;
        byte[] refcountTable = new byte[needed * 8];
        for (int i = 0; i < needed; i++)
            BigEndian64(refcountTable.AsSpan(i * 8), (ulong)(blocks + ((long)i << ClusterBits)));
        for (int i = 0; i < cluster.Length; i += 2)
            (cluster[i], cluster[i + 1]) = (0, 1);
        for (int i = 0; i < needed; i++)
            file.Write(blocks + ((long)i << ClusterBits), cluster);
        file.Write(1 << ClusterBits, refcountTable);
        file.Resize(all << ClusterBits);
        ProcessorWatch time = ProcessorWatch.StartNew();

        CheckResult result = ImageChecker.Check(file);

        Assert.Equal(0, result.Corruptions);
        Assert.Equal(Clusters, result.AllocatedClusters);
        time.ShouldBeBelow(TimeMax);
    }

    /// <summary>The plain reader's check and this one share no code. On refcounts and flags they agree.</summary>
    [SkippableTheory]
    [InlineData("plain")]
    [InlineData("512")]
    [InlineData("snapshots")]
    [InlineData("bitmaps")]
    [InlineData("compressed")]
    [InlineData("bits1")]
    [InlineData("bits64")]
    [InlineData("extended")]
    public void The_plain_check_finds_the_same(string kind)
    {
        QemuTools.RequireTool("qemu-img");
        for (ulong seed = 0; seed < 10; seed++)
        {
            DamagedImage image = RepairTests.Scrambled(QemuImages.Get(kind), new SeededRandom(seed));
            image.Clear(72, 1);
            PlainCheck plain = image.Plain.Check();
            CheckResult ours = image.Check();
            Assert.Equal(plain.Leaks, ours.Leaks);
            Assert.Equal(Math.Min(plain.Errors.Count, 20), Math.Min(ours.Corruptions, 20));
        }
    }

    [SkippableFact]
    public void The_plain_check_condemns_the_same_images()
    {
        QemuTools.RequireTool("qemu-img");
        int compared = 0;
        foreach ((string name, Damage damage) in Damages.All)
        {
            DamagedImage image = new(QemuImages.Get(damage.Kind));
            if (image.Header.ExternalData)
                continue;
            damage.Do(image);
            try
            {
                PlainCheck plain = image.Plain.Check();
                CheckResult ours = image.Check();

                // It does not look at the fields of bitmaps and snapshots.
                if (!name.Contains("bitmap", StringComparison.Ordinal) || plain.Errors.Count > 0)
                    Assert.True(plain.Errors.Count > 0 == ours.Corruptions > 0, name);
                compared++;
            }
            catch (PlainReaderException)
            {
                // It refuses what it cannot follow.
            }
        }

        Assert.InRange(compared, 70, 200);
    }

    private static void BigEndian64(Span<byte> at, ulong value) =>
        System.Buffers.Binary.BinaryPrimitives.WriteUInt64BigEndian(at, value);

    /// <summary>Header, a refcount table of one cluster without blocks, and an L1 table of holes.</summary>
    private static MemoryDevice MakeHuge(int clusterBits, int l1Entries, out long l1, out long free)
    {
        MemoryDevice file = new(0, name: "huge");
        long cluster = 1L << clusterBits;
        l1 = 2 * cluster;
        free = l1 + (((l1Entries * 8L) + cluster - 1) / cluster * cluster);
        byte[] header = new byte[112];
        void U32(int at, uint value) =>
            System.Buffers.Binary.BinaryPrimitives.WriteUInt32BigEndian(header.AsSpan(at), value);
        U32(0, 0x514649fb);
        U32(4, 3);
        U32(20, (uint)clusterBits);
        BigEndian64(header.AsSpan(24), (ulong)Math.Min(l1Entries * (cluster * cluster / 8), 1L << 60));
        U32(36, (uint)l1Entries);
        BigEndian64(header.AsSpan(40), (ulong)l1);
        BigEndian64(header.AsSpan(48), (ulong)cluster);
        U32(56, 1);
        U32(96, 4);
        U32(100, 112);
        file.Write(0, header);
        file.Resize(free + (4 * cluster));
        return file;
    }

    private static CheckResult Timed(BlockDevice file)
    {
        ProcessorWatch time = ProcessorWatch.StartNew();
        CheckResult result = ImageChecker.Check(file);
        time.ShouldBeBelow(TimeMax);
        return result;
    }

    /// <summary>The result, or null where the image is refused.</summary>
    private static CheckResult? Check(BlockDevice file)
    {
        ProcessorWatch time = ProcessorWatch.StartNew();
        try
        {
            return ImageChecker.Check(file);
        }
        catch (BlockException failure)
        {
            Assert.DoesNotContain('\n', failure.Message);
            return null;
        }
        finally
        {
            time.ShouldBeBelow(TimeSpan.FromSeconds(10));
        }
    }

    /// <summary>Repairs never throw anything else, and never grow the file beyond a few clusters.</summary>
    private static void Repair(BlockDevice file, byte[] sound)
    {
        foreach (Func<BlockDevice, RepairResult> repair in (Func<BlockDevice, RepairResult>[])
            [ImageRepair.Leaks, ImageRepair.Dirty])
        {
            try
            {
                repair(file);
            }
            catch (BlockException failure)
            {
                Assert.DoesNotContain('\n', failure.Message);
            }
        }

        Assert.InRange(file.Length, sound.Length, sound.Length * 3L);
    }

    private static void Change(byte[] image, SeededRandom random, int clusterSize)
    {
        int offset = random.Below(3) switch
        {
            0 => random.Below(112),
            1 => random.Below(Math.Min(image.Length, 8 * clusterSize)),
            _ => random.Below(image.Length),
        };
        int length = Math.Min(8, image.Length - offset);
        switch (random.Below(4))
        {
            case 0:
                image[offset] ^= (byte)(1 << random.Below(8));
                break;
            case 1:
                image[offset] = (byte)random.Below(256);
                break;
            case 2:
                image.AsSpan(offset, length).Fill(0xff);
                break;
            default:
                image.AsSpan(offset, length).Clear();
                break;
        }
    }
}
