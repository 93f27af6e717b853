// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing.Crash;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Crash;

/// <summary>
/// Crash states of random runs with everything an image can have and every way to open it, alone and together. The
/// same variables as for <see cref="CrashTests"/> scale and move them.
/// </summary>
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
}
