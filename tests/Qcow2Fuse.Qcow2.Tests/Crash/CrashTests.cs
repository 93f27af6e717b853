// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Faults;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Crash;

/// <summary>
/// No power cut leaves an image that does not open, has broken metadata, lost what was flushed, or shows bytes that
/// were never written there. <c>QCOW2FUSE_CRASH_RUNS</c> and <c>QCOW2FUSE_CRASH_STATES</c> (both in all) scale the
/// random part, <c>QCOW2FUSE_CRASH_SEED</c> (the first seed) moves it; a failure says how to see it again.
/// </summary>
public sealed class CrashTests(ITestOutputHelper output)
{
    private const ulong DefaultSeed = 20_000;

    [Fact]
    [Trait(Speed.Name, Speed.Scaled)]
    public void Crash_states_of_random_runs_are_right()
    {
        int runs = CrashSettings.Runs / 4;
        long states = CrashSettings.States / 4 / Math.Max(runs, 1);
        ulong seed = CrashSettings.Seed;
        long judged = 0;
        foreach (bool smallCaches in (bool[])[false, true])
        {
            foreach (int writers in (int[])[1, 4])
            {
                Qcow2Subject engine = new() { Features = smallCaches ? CrashFeatures.SmallCaches : CrashFeatures.None };
                CrashFleetResult result = CrashFleet.Random(engine, seed, runs, Options(writers, states));
                output.WriteLine($"{engine.Name}, {writers} writer(s): {result}");
                Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
                if (QemuTools.HasQemuImg)
                    Assert.Equal(result.States / 1000, result.AskedQemu);
                judged += result.States;
                seed += (ulong)runs;
            }
        }

        Assert.Equal(4L * runs * states, judged);
    }

    [Fact]
    [Trait(Speed.Name, Speed.Scaled)]
    public void Crash_states_of_compressed_writes_are_right()
    {
        int runs = CrashSettings.Runs / 40;
        long states = CrashSettings.States / 80 / Math.Max(runs, 1);
        ulong seed = CrashSettings.Seed;
        foreach ((int writers, int packers, bool smallCaches, int clusterBitsMax, int fewer) in
            ((int, int, bool, int, int)[])
            [
                (1, 0, false, 16, 1), (1, 2, false, 16, 1), (4, 2, false, 16, 1),
                (1, 0, true, 16, 1), (4, 2, true, 16, 1), (4, 2, false, 21, 10),
            ])
        {
            Qcow2Subject engine = new()
            {
                Features = CrashFeatures.Compress
                    | (smallCaches ? CrashFeatures.SmallCaches : CrashFeatures.None),
                ClusterBitsMax = clusterBitsMax,
                CompressionThreads = packers,
            };
            CrashRunOptions options = Options(writers, states) with { Compressible = true };
            CrashFleetResult result = CrashFleet.Random(engine, seed, runs / fewer, options);
            output.WriteLine($"{engine.Name}, {writers} writer(s), {packers} packer(s): {result}");
            Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
            seed += (ulong)runs;
        }
    }

    [Theory]
    [InlineData(9, false, 0)]
    [InlineData(12, false, 0)]
    [InlineData(12, false, 2)]
    [InlineData(16, false, 0)]
    [InlineData(16, false, 2)]
    [InlineData(14, true, 0)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Crash_states_after_a_failed_request_of_compressed_writes_are_right(
        int clusterBits, bool extended, int packers)
    {
        ImageKind kind = ImageKind.Create(clusterBits, 3, extended, 2, 30, new SeededRandom(2));
        kind = kind with { Compressed = true };
        CrashRunOptions options = new()
        {
            Kind = kind,
            Rounds = 40,
            States = 40,
            RecoverEvery = 13,
            Compressible = true,
        };
        long runs = 0;
        for (ulong seed = 6; seed < 8; seed++)
        {
            CrashFleetResult result = CrashFleet.FailEach(
                new Qcow2Subject { Features = CrashFeatures.Compress, CompressionThreads = packers }, seed, options,
                BlockOp.Read, BlockOp.Write, BlockOp.WriteZeroes, BlockOp.Discard, BlockOp.Flush);
            output.WriteLine(result.ToString());
            Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
            runs += result.Runs;
        }

        Assert.True(runs > 30, $"only {runs} runs");
    }

    [Fact]
    [Trait(Speed.Name, Speed.Slow)]
    public void Crash_states_of_all_short_sequences_are_right()
    {
        SeededRandom random = new(1);
        ImageKind[] kinds =
        [
            ImageKind.Create(9, 2, extended: false, backing: 3, prefilledPercent: 0, random),
            ImageKind.Create(12, 3, extended: false, backing: 0, prefilledPercent: 100, random),
            ImageKind.Create(14, 3, extended: true, backing: 2, prefilledPercent: 0, random),
            ImageKind.Create(14, 3, extended: true, backing: 0, prefilledPercent: 50, random),
            ImageKind.Create(16, 3, extended: false, backing: 3, prefilledPercent: 50, random),
            ImageKind.Create(16, 3, extended: true, backing: 3, prefilledPercent: 30, random) with
            {
                Compressed = true,
            },
        ];
        CrashFleetResult result = CrashFleet.Exhaustive(new Qcow2Subject(), kinds, statesPerRun: 40);
        output.WriteLine(result.ToString());
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
        Assert.Equal(6 * (7 + 49 + 343), result.Runs);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Crash_states_while_the_refcount_table_grows_are_right(int writers)
    {
        ImageKind kind = ImageKind.Create(9, 3, extended: false, backing: 2, prefilledPercent: 0, new SeededRandom(3));
        CrashRunOptions options = Options(writers, 400) with { Kind = kind with { RefcountOrder = 6 } };
        CrashFleetResult result = CrashFleet.Random(
            new Qcow2Subject { NearlyFullTable = true }, DefaultSeed, 30, options);
        output.WriteLine(result.ToString());
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
        Assert.Equal(30 * 400, result.States);
    }

    [Theory]
    [InlineData(9, false)]
    [InlineData(12, false)]
    [InlineData(16, false)]
    [InlineData(14, true)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Crash_states_after_a_failed_request_are_right(int clusterBits, bool extended)
    {
        ImageKind kind = ImageKind.Create(clusterBits, 3, extended, 2, 30, new SeededRandom(2));
        kind = kind with { Compressed = true };
        CrashRunOptions options = new() { Kind = kind, Rounds = 25, States = 40, RecoverEvery = 13 };
        foreach (bool smallCaches in (bool[])[false, true])
        {
            CrashFleetResult result = CrashFleet.FailEach(
                new Qcow2Subject { Features = smallCaches ? CrashFeatures.SmallCaches : CrashFeatures.None },
                6, options,
                BlockOp.Read, BlockOp.Write, BlockOp.WriteZeroes, BlockOp.Discard, BlockOp.Resize, BlockOp.Flush);
            output.WriteLine(result.ToString());
            Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
            Assert.True(result.Runs > 20);
        }
    }

    [Fact]
    public void On_a_disk_that_forgets_flushes_the_same_judge_finds_failures()
    {
        CrashRunOptions options = new() { States = 300, Filter = disk => new FlushDroppingDevice(disk, keepEvery: 3) };
        CrashFleetResult result = CrashFleet.Random(new Qcow2Subject(), DefaultSeed, 40, options, qemuEvery: 0);
        Assert.NotEmpty(result.Failures);
    }

    [Fact]
    [Trait(Speed.Name, Speed.Slow)]
    public void Crash_states_of_one_seed_are_right()
    {
        string? with = Environment.GetEnvironmentVariable("QCOW2FUSE_CRASH_WITH");
        Qcow2Subject engine = new()
        {
            Features = string.IsNullOrEmpty(with) ? CrashFeatures.None : Enum.Parse<CrashFeatures>(with),
            ClusterBitsMax = (int)CrashSettings.Number("QCOW2FUSE_CRASH_CLUSTER_BITS", 21),
            CompressionThreads = (int)CrashSettings.Number("QCOW2FUSE_CRASH_PACKERS", 0),
        };
        CrashRunOptions options = Options(
            (int)CrashSettings.Number("QCOW2FUSE_CRASH_WRITERS", 1),
            (long)CrashSettings.Number("QCOW2FUSE_CRASH_STATES", 20_000));
        options = options with
        {
            Compressible = (engine.Features & CrashFeatures.Compress) != CrashFeatures.None,
        };
        CrashRunResult result = CrashRun.Run(engine, CrashSettings.Seed, options);
        output.WriteLine($"{result.States} states");
        Assert.True(result.Failure is null, result.Failure);
    }

    internal static CrashRunOptions Options(int writers, long states) =>
        new() { States = states, Writers = writers, Rounds = writers > 1 ? 40 : 60 };
}
