// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Faults;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Crash;

/// <summary>
/// Crash states of random runs with everything an image can have and every way to open it, alone and together. The
/// same variables as for <see cref="CrashTests"/> scale and move them.
/// </summary>
[Trait(Speed.Name, Speed.Scaled)]
public sealed class CrashFeatureTests(ITestOutputHelper output)
{
    private const ulong FirstSeed = 500_000;
    private const int LargestCompressed = 16;

    public static TheoryData<CrashFeatures> Features() =>
    [
        CrashFeatures.Lazy,
        CrashFeatures.Lazy | CrashFeatures.Resizes,
        CrashFeatures.Lazy | CrashFeatures.Snapshots,
        CrashFeatures.Lazy | CrashFeatures.Compress,
        CrashFeatures.Lazy | CrashFeatures.NoUnref,
        CrashFeatures.Lazy | CrashFeatures.WriteThrough,
        CrashFeatures.Data,
        CrashFeatures.Data | CrashFeatures.Lazy,
        CrashFeatures.Data | CrashFeatures.Resizes,
        CrashFeatures.Data | CrashFeatures.RawData,
        CrashFeatures.Data | CrashFeatures.RawData | CrashFeatures.Resizes,
        CrashFeatures.Snapshots,
        CrashFeatures.Snapshots | CrashFeatures.Resizes,
        CrashFeatures.Snapshots | CrashFeatures.Compress,
        CrashFeatures.Snapshots | CrashFeatures.NoUnref,
        CrashFeatures.Resizes,
        CrashFeatures.Resizes | CrashFeatures.Compress,
        CrashFeatures.Resizes | CrashFeatures.NoUnref,
        CrashFeatures.Compress | CrashFeatures.Zstd,
        CrashFeatures.Compress | CrashFeatures.WriteThrough,
        CrashFeatures.NoUnref,
        CrashFeatures.NoUnref | CrashFeatures.WriteThrough,
        CrashFeatures.IgnoreDiscards,
        CrashFeatures.WriteThrough,
        CrashFeatures.Commit,
        CrashFeatures.Commit | CrashFeatures.Lazy | CrashFeatures.Resizes,
        CrashFeatures.Commit | CrashFeatures.Compress | CrashFeatures.Snapshots,
        CrashFeatures.Exchanges,
        CrashFeatures.Exchanges | CrashFeatures.Commit,
        CrashFeatures.Exchanges | CrashFeatures.Compress,
        CrashFeatures.Exchanges | CrashFeatures.Resizes,
    ];

    [Theory]
    [MemberData(nameof(Features))]
    public void Crash_states_are_right_with(CrashFeatures features)
    {
        int runs = Math.Max(CrashSettings.Runs / 100, 2);
        long states = CrashSettings.States / 200 / runs;
        ulong seed = FirstSeed + (CrashSettings.Seed << 8) + ((ulong)features << 40);
        foreach (int writers in (int[])[1, 4])
        {
            Qcow2Subject engine = new()
            {
                Features = features,
                ClusterBitsMax = (features & CrashFeatures.Compress) != CrashFeatures.None ? LargestCompressed : 21,
                CompressionThreads = writers > 1 ? 2 : 0,
            };
            CrashRunOptions options = CrashTests.Options(writers, states) with
            {
                Compressible = (features & CrashFeatures.Compress) != CrashFeatures.None,
            };
            CrashFleetResult result = CrashFleet.Random(engine, seed, runs, options);
            output.WriteLine($"{engine.Name}, {writers} writer(s): {result}");
            Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
            Assert.Equal(runs * states, result.States);
            seed += (ulong)runs;
        }
    }

    [Theory]
    [InlineData(CrashFeatures.Lazy, 9, false)]
    [InlineData(CrashFeatures.Lazy | CrashFeatures.Data, 12, false)]
    [InlineData(CrashFeatures.Data | CrashFeatures.RawData, 14, true)]
    [InlineData(CrashFeatures.NoUnref | CrashFeatures.WriteThrough, 14, true)]
    public void Crash_states_after_a_failed_request_are_right_with(
        CrashFeatures features, int clusterBits, bool extended)
    {
        int backing = (features & CrashFeatures.RawData) != CrashFeatures.None ? 0 : 2;
        CrashRunOptions options = new()
        {
            Kind = ImageKind.Create(clusterBits, 3, extended, backing, 30, new SeededRandom(2)),
            Rounds = 25,
            States = 30,
            RecoverEvery = 11,
        };
        CrashFleetResult result = CrashFleet.FailEach(
            new Qcow2Subject { Features = features }, 6, options, BlockOp.Read, BlockOp.Write, BlockOp.Flush);
        output.WriteLine(result.ToString());
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
        Assert.True(result.Runs > 10);
    }

    /// <summary>
    /// The guest goes over so many tables that the smallest caches cannot hold them: they are evicted, dirty ones too.
    /// </summary>
    [Theory]
    [InlineData(CrashFeatures.SmallCaches, 1)]
    [InlineData(CrashFeatures.SmallCaches, 4)]
    [InlineData(CrashFeatures.SmallCaches | CrashFeatures.Lazy, 1)]
    [InlineData(CrashFeatures.SmallCaches | CrashFeatures.Snapshots, 1)]
    public void Crash_states_while_tables_are_evicted_are_right(CrashFeatures features, int writers)
    {
        const long Clusters = 6400;
        ImageKind kind = new(9, 3, ExtendedL2: false, Clusters << 9, BackingLength: -1, PrefilledPercent: 50);
        int runs = Math.Max(CrashSettings.Runs / 1000, 1);
        CrashRunOptions options = CrashTests.Options(writers, 150) with
        {
            Kind = kind with { RefcountOrder = 6 },
            Rounds = 250,
        };
        CrashFleetResult result = CrashFleet.Random(
            new Qcow2Subject { Features = features }, FirstSeed + CrashSettings.Seed, runs, options, qemuEvery: 100);
        output.WriteLine(result.ToString());
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));

        // The disk has more tables than the caches hold.
        CrashDevice disk = new();
        Qcow2Subject subject = new() { Features = features };
        subject.Create(disk, options.Kind);
        using Qcow2Device device = (Qcow2Device)subject.Open(disk, null, null);
        for (long table = 0; table < Clusters / 64; table++)
            device.Write(table * 64 * 512, [1]);
        Assert.True(device.Statistics.L2.Held < Clusters / 64, $"{device.Statistics}");
    }

    [Fact]
    public void A_data_file_that_forgets_flushes_is_caught() => ShouldBeCaught(
        CrashFeatures.Data, static (_, data) => new FlushDroppingDevice(data!, keepEvery: 3), onData: true);

    [Fact]
    public void A_raw_data_file_that_forgets_zeroes_is_caught() => ShouldBeCaught(
        CrashFeatures.Data | CrashFeatures.RawData, static (_, data) => new ZeroDroppingDevice(data!), onData: true);

    [Fact]
    public void Lazy_refcounts_without_the_mark_are_caught() => ShouldBeCaught(
        CrashFeatures.Lazy, static (file, _) => new MarkDroppingDevice(file), onData: false);

    [Theory]
    [InlineData(CrashFeatures.Snapshots)]
    [InlineData(CrashFeatures.Resizes)]
    [InlineData(CrashFeatures.WriteThrough)]
    public void A_disk_that_forgets_flushes_is_caught_with(CrashFeatures features) => ShouldBeCaught(
        features, static (file, _) => new FlushDroppingDevice(file, keepEvery: 3), onData: false);

    private static void ShouldBeCaught(
        CrashFeatures features, Func<BlockDevice, BlockDevice?, BlockDevice> wrap, bool onData)
    {
        WrappingSubject subject = new(new Qcow2Subject { Features = features }, wrap, onData);
        CrashRunOptions options = new() { States = 200, RecoverEvery = 0 };
        Assert.NotEmpty(CrashFleet.Random(subject, FirstSeed, 40, options, qemuEvery: 0).Failures);
    }

    /// <summary>An engine on a file, or a data file, that does something wrong.</summary>
    private sealed class WrappingSubject(
        Qcow2Subject engine, Func<BlockDevice, BlockDevice?, BlockDevice> wrap, bool onData) : ICrashSubject
    {
        public string Name => engine.Name + " on a device that lies";

        public CrashFeatures Features => engine.Features;

        public bool LeaksNothing => engine.LeaksNothing;

        public bool Supports(ImageKind kind) => engine.Supports(kind);

        public void Create(BlockDevice file, ImageKind kind) => engine.Create(file, kind);

        public BlockDevice Open(BlockDevice file, BlockDevice? backing, BlockDevice? data) => onData
            ? engine.Open(file, backing, wrap(file, data))
            : engine.Open(wrap(file, data), backing, data);
    }

    /// <summary>Loses what gives zeroes.</summary>
    private sealed class ZeroDroppingDevice(BlockDevice child) : PassThroughDevice(child)
    {
        public override void WriteZeroes(long offset, long length, bool mayUnmap)
        {
        }
    }

    /// <summary>Never lets the image be marked dirty.</summary>
    private sealed class MarkDroppingDevice(BlockDevice child) : PassThroughDevice(child)
    {
        private const int LastByteOfIncompatible = 79;

        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            byte[] changed = source.ToArray();
            if (offset <= LastByteOfIncompatible && offset + changed.Length > LastByteOfIncompatible)
                changed[LastByteOfIncompatible - offset] &= 0xfe;
            Child.Write(offset, changed);
        }
    }
}
