// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Tests.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Chain;

/// <summary>Images over a chain that has a map, opened as a mount opens them.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class MappedChainTests : IDisposable
{
    private const int Disk = 6 << 20;
    private const int Cluster = 65536;
    private const int Page = 4096;

    private readonly ChainFiles _chain = new();

    public void Dispose() => _chain.Dispose();

    [Fact]
    public void Layers_in_between_are_not_asked_again()
    {
        _ = _chain.Raw(Stamp.Bytes(0, Disk, 1));
        for (int i = 1; i <= 4; i++)
            _ = _chain.Add(Write(Disk - (i * Cluster), Cluster, (ulong)i));
        using OpenedImage image = _chain.Open();
        ShouldRead(image.Device, 0, _chain.Content);
        long[] before = Lookups(image);
        for (int at = 0; at < Disk - (4 * Cluster); at += Page)
            ShouldRead(image.Device, at, _chain.Content.AsSpan(at, Page));
        long[] after = Lookups(image);
        Assert.InRange(after[0] - before[0], 1000, int.MaxValue);
        Assert.Equal(before[1..], after[1..]);
        ShouldRead(image.Device, Disk - (3 * Cluster), _chain.Content.AsSpan(Disk - (3 * Cluster), Cluster));
        Assert.Equal([after[1] + 1, after[2], after[3]], Lookups(image)[1..]);
    }

    [Fact]
    public void The_top_always_answers_for_itself()
    {
        _ = _chain.Raw(Stamp.Bytes(0, Disk, 1)).Add().Add(Write(Page, Page, 2)).Add();
        using OpenedImage image = _chain.Open();
        BlockDevice top = image.Device;
        byte[] content = _chain.Content;
        ShouldRead(top, 0, content);
        Write(Page + 100, 50, 3)(top, content);
        ShouldRead(top, 0, content);
        top.WriteZeroes(3 * Page, 2 << 20, mayUnmap: true);
        content.AsSpan(3 * Page, 2 << 20).Clear();
        ShouldRead(top, 0, content);
        Qcow2Device qcow2 = (Qcow2Device)top;
        qcow2.CreateSnapshot("s");
        byte[] then = [.. content];
        Write(4 << 20, 1 << 20, 4)(top, content);
        using (BlockDevice snapshot = qcow2.OpenSnapshot("s"))
            ShouldRead(snapshot, 0, then);
        ShouldRead(top, 0, content);
        qcow2.ApplySnapshot("s");
        ShouldRead(top, 0, then);
    }

    [Fact]
    public void A_disk_that_grows_again_does_not_show_what_lies_below()
    {
        _ = _chain.Raw(Stamp.Bytes(0, Disk, 1)).Add().Add().Add();
        using OpenedImage image = _chain.Open();
        ShouldRead(image.Device, 0, _chain.Content);
        image.Device.Resize(Disk / 2);
        image.Device.Resize(Disk + (1 << 20));
        ShouldRead(image.Device, 0, _chain.Content.AsSpan(0, Disk / 2));
        ShouldRead(image.Device, Disk / 2, new byte[(Disk / 2) + (1 << 20)]);
    }

    /// <summary>Clusters of all sizes and kinds, layers of all lengths; each read in both ways.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(8)]
    public void A_chain_of_any_kind_reads_as_an_array_does(int seed)
    {
        SeededRandom random = new((ulong)seed);
        if (seed % 2 == 0)
            _ = _chain.Raw(Stamp.Bytes(0, Disk - random.Below(1 << 20), (ulong)seed));
        int layers = 3 + random.Below(4);
        for (int i = 0; i <= layers; i++)
        {
            int cluster = random.Pick(512, 4096, Cluster, Cluster);
            Qcow2CreateOptions options = new()
            {
                Size = i == layers ? Disk : Disk - (random.Chance(50) ? 0 : random.Below(4000) * 512L),
                ClusterSize = cluster,
                ExtendedL2 = cluster == Cluster && random.Chance(50),
            };
            CompressedWrites compress = random.Chance(25) && !options.ExtendedL2
                ? CompressedWrites.Zlib : CompressedWrites.Off;
            _ = _chain.Add(options, compress, (disk, content) => Change(random, disk, content, steps: 30));
        }

        using (OpenedImage image = _chain.Open())
        {
            PlainAccess plain = new(image.Device);
            byte[] content = _chain.Content;
            ShouldRead(image.Device, 0, content);
            for (int i = 0; i < 2000; i++)
            {
                int offset = random.Below(content.Length);
                int length = 1 + random.Below(Math.Min(content.Length - offset, random.Pick(600, 9000, 200_000)));
                ShouldRead(random.Chance(70) ? plain : image.Device, offset, content.AsSpan(offset, length));
                if (i % 20 == 0)
                    Change(random, plain, content, steps: 1);
            }

            Assert.InRange(plain.Transfers, 100, int.MaxValue);
            ShouldRead(plain, 0, content);
        }

        if (QemuTools.HasQemuImg)
            Assert.Equal(_chain.Content, QemuTools.ConvertToRaw(_chain.Top));
    }

    [Fact]
    public async Task Readers_see_the_old_bytes_or_the_new_ones_while_somebody_writes()
    {
        _ = _chain.Raw(Stamp.Bytes(0, Disk, 1))
            .Add(Write(Disk / 3, Disk / 3, 2)).Add(Write(Disk / 2, Cluster, 3)).Add();
        using OpenedImage image = _chain.Open();
        PlainAccess plain = new(image.Device);
        byte[] before = _chain.Content;
        byte[] after = Stamp.Bytes(0, Disk, 9);

        // 0 not begun, 1 under way, 2 done.
        int[] states = new int[Disk / Page];
        using CancellationTokenSource end = new();
        Task[] readers = [.. Enumerable.Range(0, 4).Select(number => Task.Run(() =>
        {
            SeededRandom random = new((ulong)number);
            byte[] seen = new byte[Page];
            while (!end.IsCancellationRequested)
            {
                int page = random.Below(states.Length);
                int was = Volatile.Read(ref states[page]);
                plain.Read((long)page * Page, seen);
                int now = Volatile.Read(ref states[page]);
                bool isOld = seen.AsSpan().SequenceEqual(before.AsSpan(page * Page, Page));
                bool isNew = seen.AsSpan().SequenceEqual(after.AsSpan(page * Page, Page));
                bool isRight = (was < 2 && isOld) || (now > 0 && isNew) || (was < 2 && now > 0);
                Assert.True(isRight, $"page {page}: {was} before, {now} after");
            }
        }))];
        SeededRandom places = new(77);
        for (int i = 0; i < 600; i++)
        {
            int page = places.Below(states.Length);
            Volatile.Write(ref states[page], 1);
            image.Device.Write((long)page * Page, after.AsSpan(page * Page, Page));
            Volatile.Write(ref states[page], 2);
            if (i % 100 == 0)
                image.Device.Flush();
        }

        await end.CancelAsync();
        await Task.WhenAll(readers);
        Assert.True(plain.Transfers > 0);
    }

    /// <summary>Random changes of a disk and of what it should hold.</summary>
    private static void Change(SeededRandom random, BlockDevice disk, byte[] content, int steps)
    {
        for (int i = 0; i < steps; i++)
        {
            int offset = random.Below(content.Length);
            int length = 1 + random.Below(Math.Min(content.Length - offset, random.Pick(3000, 60_000, 300_000)));
            switch (random.Below(5))
            {
                case 0:
                    disk.WriteZeroes(offset, length, mayUnmap: random.Chance(50));
                    content.AsSpan(offset, length).Clear();
                    break;
                case 1:
                    Discard(disk, content, offset, length);
                    break;
                default:
                    Write(offset, length, (random.NextBits() % 1000) | Stamp.Compressible)(disk, content);
                    break;
            }
        }
    }

    /// <summary>What is discarded keeps its bytes or becomes zero.</summary>
    private static void Discard(BlockDevice disk, byte[] content, int offset, int length)
    {
        disk.Discard(offset, length);
        byte[] seen = new byte[length];
        disk.Read(offset, seen);
        for (int i = 0; i < length; i++)
            Assert.True(seen[i] == 0 || seen[i] == content[offset + i], $"discarded byte {offset + i} is another one");
        seen.CopyTo(content, offset);
    }

    private static Action<BlockDevice, byte[]> Write(int offset, int length, ulong tag) => (disk, content) =>
    {
        byte[] bytes = Stamp.Bytes(offset, length, tag);
        disk.Write(offset, bytes);
        bytes.CopyTo(content, offset);
    };

    /// <summary>How often each image of the chain has looked into its tables.</summary>
    private static long[] Lookups(OpenedImage image) => [.. Enumerable.Range(0, image.Layers.Count - 1)
        .Select(depth => ChainFiles.LayerOf(image, depth).Statistics.L2)
        .Select(statistics => statistics.Hits + statistics.Misses)];

    private static void ShouldRead(BlockDevice device, long offset, ReadOnlySpan<byte> expected)
    {
        byte[] seen = new byte[expected.Length];
        device.Read(offset, seen);
        int same = expected.CommonPrefixLength(seen);
        Assert.True(same == seen.Length, $"read of {seen.Length} at {offset}: byte {same} is wrong");
    }
}

/// <summary>Reads through a chain allocate no managed memory.</summary>
[Collection(nameof(Alone))]
public sealed class MappedChainAllocationTests
{
    [Fact]
    public void Reads_allocate_nothing()
    {
        const int Disk = 4 << 20;
        using ChainFiles chain = new();
        _ = chain.Raw(new byte[Disk]).Add().Add((disk, _) => disk.Write(70_000, new byte[500])).Add().Add();
        using OpenedImage image = chain.Open();
        byte[] buffer = new byte[5000];
        Rounds(image.Device, buffer, 2000);
        Assert.Equal(0, ManagedAllocation.Of(() => Rounds(image.Device, buffer, 2000)));
    }

    private static void Rounds(BlockDevice device, byte[] buffer, int rounds)
    {
        for (int i = 0; i < rounds; i++)
        {
            long offset = i * 7919L % (device.Length - buffer.Length);
            device.Read(offset, buffer);
            if (device.TryBeginPlain(offset, buffer.Length, isWrite: false, out PlainRun run))
                device.EndPlain(run);
        }
    }
}
