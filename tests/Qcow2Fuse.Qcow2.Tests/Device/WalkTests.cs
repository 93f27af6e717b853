// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Walks over all of a disk: each table is looked into once, and what is told is what extents tell.</summary>
public sealed class WalkTests
{
    private const ulong Zero = 1;
    private const int Tables = 1 << 20;

    [Theory]
    [InlineData(16, "zero", false, RunKind.Zero)]
    [InlineData(16, "none", false, RunKind.Unallocated)]
    [InlineData(16, "in turn", true, RunKind.Unstored)]
    [InlineData(16, "data", false, RunKind.Stored)]
    [InlineData(21, "zero", false, RunKind.Zero)]
    public void A_table_that_a_million_entries_name_is_looked_into_once(
        int clusterBits, string content, bool joinsUnstored, RunKind expected)
    {
        using MemoryDevice file = FanImage.Create(clusterBits, Tables, i => content switch
        {
            "zero" => Zero,
            "none" => 0,
            "data" => 0x10000,
            _ => (ulong)i & 1,
        });
        using Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments { ReadOnly = true });

        int calls = 0;
        for (long at = 0; at < device.Length; calls++)
        {
            DeviceRun run = device.GetRun(at, device.Length - at, joinsUnstored);
            Assert.Equal(expected, run.Kind);
            at += run.Length;
        }

        Assert.InRange(calls, 1, 4);
        int slices = (1 << clusterBits) / Qcow2Geometry.SliceBytesMax;
        Assert.InRange(device.Statistics.L2.Hits + device.Statistics.L2.Misses, slices, 3 * slices);
    }

    [Fact]
    public void The_map_of_a_chain_joins_what_is_nowhere()
    {
        using MemoryDevice file = FanImage.Create(16, Tables, _ => Zero);
        Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments { ReadOnly = true });
        int extents = 0;
        for (long at = 0; at < device.Length; extents++)
            at += BackingChain.GetExtent(device, at, device.Length - at).Length;
        Assert.InRange(extents, 1, 4);
        device.Dispose();
    }

    [Fact]
    public void A_table_that_has_changed_is_looked_into_again()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 64L << 20, ClusterSize = 4096 });
        const long Table = 4096 / 8 * 4096;
        image.WritePattern(0, (int)(4 * Table), 7);
        image.Device.WriteZeroes(0, 4 * Table, mayUnmap: false);
        Assert.Equal(RunKind.Zero, KindOfFirst(4 * Table));
        Assert.Equal(RunKind.Zero, KindOfFirst(4 * Table));

        image.Write(2 * Table, 4096, tag: 1);
        DeviceRun before = image.Device.GetRun(0, 4 * Table, joinsUnstored: false);
        Assert.Equal(RunKind.Zero, before.Kind);
        Assert.InRange(before.Length, 1, 2 * Table);
        Assert.Equal(RunKind.Stored, image.Device.GetRun(2 * Table, Table, joinsUnstored: false).Kind);

        RunKind KindOfFirst(long length)
        {
            RunKind? all = null;
            for (long at = 0; at < length;)
            {
                DeviceRun run = image.Device.GetRun(at, length - at, joinsUnstored: false);
                Assert.Equal(all ?? run.Kind, run.Kind);
                all = run.Kind;
                at += run.Length;
            }

            return all!.Value;
        }
    }

    [Theory]
    [InlineData(512, false, 1)]
    [InlineData(4096, false, 2)]
    [InlineData(65536, true, 3)]
    public void Runs_say_what_extents_say(int clusterSize, bool extendedL2, int seed)
    {
        const long Size = 8 << 20;
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = Size, ClusterSize = clusterSize, ExtendedL2 = extendedL2 });
        SeededRandom random = new((ulong)seed);
        for (int round = 0; round < 60; round++)
        {
            long at = random.Below((int)(Size / 512)) * 512L;
            int length = (int)Math.Min(Size - at, 512L << random.Below(11));
            switch (random.Below(3))
            {
                case 0: image.Write(at, length, (ulong)round); break;
                case 1: image.Device.WriteZeroes(at, length, mayUnmap: true); break;
                default: image.Device.Discard(at, length); break;
            }

            foreach (bool joins in new[] { false, true })
                ShouldAgree(image.Device, joins);
        }
    }

    private static void ShouldAgree(BlockDevice device, bool joinsUnstored)
    {
        for (long at = 0; at < device.Length;)
        {
            DeviceRun run = device.GetRun(at, device.Length - at, joinsUnstored);
            Assert.InRange(run.Length, 1, device.Length - at);
            for (long end = at + run.Length; at < end;)
            {
                Extent extent = device.GetExtent(at, end - at);
                RunKind kind = DeviceRun.Of(extent).Kind;
                Assert.True(
                    kind == run.Kind || (run.Kind == RunKind.Unstored && kind != RunKind.Stored),
                    $"{kind} at {at} in a run that is {run.Kind}");
                at += extent.Length;
            }
        }
    }
}
