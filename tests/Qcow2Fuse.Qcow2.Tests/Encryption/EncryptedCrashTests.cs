// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Tests.Crash;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Faults;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Encryption;

/// <summary>
/// Power cuts on encrypted images. The judge decrypts with a cipher of its own; torn states are torn between sectors,
/// so each decrypts to what one of its writers meant.
/// </summary>
[Trait(Speed.Name, Speed.Scaled)]
public sealed class EncryptedCrashTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData("xts-plain64", 1)]
    [InlineData("xts-plain64", 4)]
    [InlineData("xts-plain64", 4, CrashFeatures.Snapshots | CrashFeatures.Resizes)]
    [InlineData("cbc-essiv:sha256", 1)]
    [InlineData("cbc-plain64", 4)]
    [InlineData("aes", 1)]
    [InlineData("aes", 1, CrashFeatures.Snapshots | CrashFeatures.Resizes)]
    [InlineData("aes", 4)]
    public void Crash_states_of_encrypted_images_are_right(
        string mode, int writers, CrashFeatures features = CrashFeatures.None)
    {
        int runs = Math.Max(CrashSettings.Runs / 125, 1);
        CrashRunOptions options = new() { States = 150, Writers = writers, Rounds = writers > 1 ? 40 : 60 };
        EncryptedSubject engine = new(EncryptedImages.Of(mode)) { Features = features };
        CrashFleetResult result = CrashFleet.Random(
            engine, 70_000 + (ulong)mode.Length, runs, options, qemuEvery: 0);
        output.WriteLine(result.ToString());
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
        Assert.Equal(runs * 150, result.States);
    }

    [Theory]
    [InlineData(12, false)]
    [InlineData(14, true)]
    public void Crash_states_after_a_failed_request_are_right(int clusterBits, bool extended)
    {
        ImageKind kind = ImageKind.Create(clusterBits, 3, extended, 2, 30, new SeededRandom(2));
        CrashRunOptions options = new() { Kind = kind, Rounds = 25, States = 20, RecoverEvery = 13 };
        CrashFleetResult result = CrashFleet.FailEach(
            new EncryptedSubject(EncryptedImages.Aes), 6, options, BlockOp.Read, BlockOp.Write, BlockOp.Flush);
        output.WriteLine(result.ToString());
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
        Assert.True(result.Runs > 20);
    }
}
