// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

/// <summary>The map of a chain: reads go to the layer that answers, and hold what they held without it.</summary>
public sealed class MappedChainTests
{
    private const int Disk = 8 << 20;
    private const int Coarse = 2 << 20;
    private const int Page = 4096;

    [Fact]
    public void Once_known_only_the_layer_that_answers_is_asked()
    {
        FakeLayer[] layers = Chain(5);
        layers[4].Store(0, Disk);
        layers[2].Store(Coarse, Coarse);
        using BlockDevice mapped = BackingChain.Mapped(layers[0])!;
        ShouldRead(mapped, 3 * Page, Page, 4);
        ShouldRead(mapped, Coarse + 100, Page, 2);
        Forget(layers);
        for (int i = 0; i < 100; i++)
        {
            ShouldRead(mapped, i * Page, Page, 4);
            ShouldRead(mapped, Coarse + (i * Page) + 5, 1000, 2);
        }

        Assert.Equal([0, 0, 100, 0, 100], layers.Select(layer => layer.Asked));
        Assert.Equal(
            new Extent(Page, Page, ExtentKind.Data, Page, Depth: 4), BackingChain.GetExtent(mapped, Page, Page));
        Assert.Equal([0, 0, 100, 0, 101], layers.Select(layer => layer.Asked));
    }

    [Fact]
    public void A_long_read_is_one_request_to_each_layer_it_needs()
    {
        FakeLayer[] layers = Chain(3);
        layers[2].Store(0, Disk);
        layers[1].Store(Coarse, Page);
        using BlockDevice mapped = BackingChain.Mapped(layers[0])!;
        byte[] whole = ReadAll(mapped);
        Assert.Equal(Stamp.Bytes(0, Coarse, 2), whole[..Coarse]);
        Assert.Equal(Stamp.Bytes(Coarse, Page, 1), whole[Coarse..(Coarse + Page)]);
        Assert.Equal(Stamp.Bytes(Coarse + Page, Disk - Coarse - Page, 2), whole[(Coarse + Page)..]);
        Forget(layers);
        mapped.Read(0, whole);
        Assert.Equal([0, 1, 2], layers.Select(layer => layer.Asked));
    }

    /// <summary>Stored runs of any size at sectors, layers of any length: granules of every size are mixed somewhere.
    /// </summary>
    [Theory]
    [InlineData(1, 20, 1 << 20)]
    [InlineData(2, 300, 65536)]
    [InlineData(3, 3000, 4096)]
    [InlineData(4, 3000, 512)]
    public void Reads_hold_what_the_chain_holds(int seed, int runs, int runMax)
    {
        SeededRandom random = new((ulong)seed);
        FakeLayer[] layers = Chain(6, _ => Disk - random.Below(Disk / 2));
        for (int i = 0; i < runs; i++)
        {
            FakeLayer layer = random.Pick(layers);
            long start = random.Below(layer.Length / 512) * 512;
            layer.Store(start, Math.Min(512 * (1 + random.Below(runMax / 512)), layer.Length - start));
        }

        using BlockDevice mapped = BackingChain.Mapped(layers[0])!;
        byte[] expected = ReadAll(layers[0]);
        for (int i = 0; i < 3000; i++)
        {
            int offset = random.Below(expected.Length);
            int length = 1 + random.Below(Math.Min(expected.Length - offset, random.Pick(600, 5000, 100_000)));
            ShouldRead(mapped, offset, expected.AsSpan(offset, length));
            Extent one = BackingChain.GetExtent(mapped, offset, length);
            Assert.InRange(one.Length, 1, length);
            Assert.Equal(BackingChain.GetExtent(layers[0], offset, length) with { Length = one.Length }, one);
        }

        ShouldRead(mapped, 0, expected);
    }

    [Fact]
    public void What_lies_beyond_a_shorter_layer_is_zero_although_a_longer_one_is_below_it()
    {
        FakeLayer low = new FakeLayer(2, Disk, backing: null).Store(0, Disk);
        FakeLayer middle = new(1, Coarse + 1000, low);
        FakeLayer high = new(0, Disk, middle);
        using BlockDevice mapped = BackingChain.Mapped(high)!;
        for (int round = 0; round < 2; round++)
        {
            ShouldRead(mapped, 0, Coarse, 2);
            ShouldRead(mapped, Coarse, 1000, 2);
            ShouldRead(mapped, Coarse + 1000, new byte[Page]);
            ShouldRead(mapped, 3 * Coarse, new byte[Page]);
        }

        Forget([high, middle, low]);
        ShouldRead(mapped, 3 * Coarse, new byte[Page]);
        Assert.Equal([1, 0, 0], new[] { high, middle, low }.Select(layer => layer.Asked));
    }

    [Fact]
    public void What_lies_beyond_the_lowest_layer_is_zero()
    {
        FakeLayer[] layers = Chain(3, number => number == 2 ? Coarse + 1000 : Disk);
        layers[2].Store(0, Coarse + 1000);
        using BlockDevice mapped = BackingChain.Mapped(layers[0])!;
        for (int round = 0; round < 2; round++)
        {
            ShouldRead(mapped, Coarse + 900, 100, 2);
            ShouldRead(mapped, Coarse + 1000, new byte[Coarse]);
        }
    }

    [Fact]
    public void The_damage_of_one_place_is_told_there_alone()
    {
        FakeLayer[] layers = Chain(4);
        layers[3].Store(0, Disk);
        layers[1].DamagedAt = 100 * Page;
        using BlockDevice mapped = BackingChain.Mapped(layers[0])!;
        for (int round = 0; round < 2; round++)
        {
            ShouldRead(mapped, 0, 100 * Page, 3);
            ShouldRead(mapped, 101 * Page, Coarse, 3);
            ShouldFail(BlockErrorKind.Corrupt, () => mapped.Read(100 * Page, new byte[Page]));
            ShouldFail(BlockErrorKind.Corrupt, () => mapped.Read(0, new byte[Coarse]));
        }

        layers[1].DamagedAt = -1;
        ShouldRead(mapped, 100 * Page, Page, 3);
    }

    [Fact]
    public void Without_two_layers_that_all_are_read_only_there_is_no_map()
    {
        Assert.Null(BackingChain.Mapped(null));
        FakeLayer single = new(0, Disk, backing: null);
        Assert.Same(single, BackingChain.Mapped(single));
        FakeLayer above = new(1, Disk, new FakeLayer(0, Disk, backing: null) { IsWritable = true });
        Assert.Same(above, BackingChain.Mapped(above));
        FakeLayer huge = new(1, long.MaxValue, new FakeLayer(0, Disk, backing: null));
        Assert.Same(huge, BackingChain.Mapped(huge));
    }

    /// <summary>A map that has fewer places than the disk has granules.</summary>
    [Fact]
    public void Granules_that_share_a_place_are_told_apart()
    {
        const long Petabyte = 1L << 50;
        FakeLayer[] layers = Chain(3, _ => Petabyte);
        layers[2].Store(0, Petabyte);
        layers[1].Store(0, Coarse).Store((Petabyte / 2) + Page, Page);
        using BlockDevice mapped = BackingChain.Mapped(layers[0])!;

        // First the deeper layer: the higher one would answer for it as well.
        ShouldRead(mapped, 1L << 45, Page, 2);
        for (int round = 0; round < 3; round++)
        {
            for (int shift = 30; shift < 50; shift++)
            {
                ShouldRead(mapped, 0, Page, 1);
                ShouldRead(mapped, 1L << shift, Page, 2);
                ShouldRead(mapped, (Petabyte / 2) + Page, Page, 1);
                ShouldRead(mapped, Petabyte - Page, Page, 2);
            }
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Transfers_begin_and_end_at_the_layer_that_answers(bool keepsRuns)
    {
        FakeLayer[] layers = Chain(4, _ => Disk, keepsRuns);
        layers[3].Store(0, Disk);
        layers[1].Store(Coarse + Page, Page);
        using BlockDevice mapped = BackingChain.Mapped(layers[0])!;
        Assert.False(mapped.TryBeginPlain(0, Page, isWrite: false, out _));
        Assert.Equal(0, layers.Sum(layer => layer.Asked));
        mapped.Read(0, new byte[Disk]);
        Forget(layers);
        Assert.True(mapped.TryBeginPlain(Page, 8 * Page, isWrite: false, out PlainRun low));
        Assert.True(mapped.TryBeginPlain(Coarse + Page, Page, isWrite: false, out PlainRun high));
        Assert.Equal([0, 1, 0, 1], layers.Select(layer => layer.Asked));
        Assert.Equal([0, 1, 0, 1], layers.Select(layer => layer.UnderWay));
        Assert.Equal((3, 1), (low.Descriptor, high.Descriptor));
        mapped.EndPlain(low);
        Assert.Equal([0, 1, 0, 0], layers.Select(layer => layer.UnderWay));
        mapped.EndPlain(high);
        Assert.False(mapped.TryBeginPlain(Coarse, 2 * Page, isWrite: false, out _));
        Assert.False(mapped.TryBeginPlain(Coarse + Page, 2 * Page, isWrite: false, out _));
        Assert.False(mapped.TryBeginPlain(0, Page, isWrite: true, out _));
        Assert.False(mapped.TryBeginPlain(-1, Page, isWrite: false, out _));
        Assert.False(mapped.TryBeginPlain(0, 0, isWrite: false, out _));
        Assert.False(mapped.TryBeginPlain(Disk - Page, 2 * Page, isWrite: false, out _));
        Assert.All(layers, layer => Assert.Equal(0, layer.UnderWay));
    }

    [Fact]
    public void It_stands_for_the_layer_below_the_top_and_closes_all_of_them()
    {
        FakeLayer[] layers = Chain(3);
        BlockDevice mapped = BackingChain.Mapped(layers[0])!;
        Assert.NotSame(layers[0], mapped);
        Assert.Equal((layers[0].Name, layers[0].Length, true), (mapped.Name, mapped.Length, mapped.IsReadOnly));
        Assert.Same(layers[1], BackingChain.Below(mapped));
        ShouldFail(BlockErrorKind.ReadOnly, () => mapped.Write(0, new byte[1]));
        ShouldFail(BlockErrorKind.OutOfRange, () => mapped.Read(Disk - 1, new byte[2]));
        mapped.Dispose();
        Assert.All(layers, layer => Assert.True(layer.IsDisposed));
    }

    private static FakeLayer[] Chain(int count, Func<int, long>? length = null, bool keepsRuns = false)
    {
        FakeLayer[] layers = new FakeLayer[count];
        FakeLayer? below = null;
        for (int i = count - 1; i >= 0; i--)
            layers[i] = below = new FakeLayer((ulong)i, length?.Invoke(i) ?? Disk, below) { KeepsRuns = keepsRuns };
        return layers;
    }

    private static void Forget(FakeLayer[] layers)
    {
        foreach (FakeLayer layer in layers)
            layer.Asked = 0;
    }

    private static void ShouldRead(BlockDevice device, long offset, int length, ulong number) =>
        ShouldRead(device, offset, Stamp.Bytes(offset, length, number));

    private static void ShouldRead(BlockDevice device, long offset, ReadOnlySpan<byte> expected)
    {
        byte[] seen = new byte[expected.Length];
        device.Read(offset, seen);
        int same = expected.CommonPrefixLength(seen);
        Assert.True(same == seen.Length, $"read of {seen.Length} at {offset}: byte {same} is wrong");
    }
}
