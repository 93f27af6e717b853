// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Faults;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Crash;

/// <summary>The crash judge accepts an engine that is right and catches each of several that are wrong.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class JudgeTests(ITestOutputHelper output)
{
    public static TheoryData<NaiveFault> Faults =>
    [
        .. Enum.GetValues<NaiveFault>()
            .Where(fault => fault is not NaiveFault.None and < NaiveFault.ForgetsFailedFlush),
    ];

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void An_engine_in_the_right_order_passes(int writers)
    {
        CrashRunOptions options = new() { Writers = writers, States = 400 };
        for (ulong seed = 1; seed <= 80; seed++)
            Assert.Null(CrashRun.Run(new NaiveSubject(), seed, options).Failure);
    }

    [Theory]
    [MemberData(nameof(Faults))]
    public void An_engine_with_a_mistake_is_caught(NaiveFault fault)
    {
        CrashRunOptions options = new() { States = 400 };
        for (ulong seed = 1; seed <= 60; seed++)
        {
            string? failure = CrashRun.Run(new NaiveSubject(fault), seed, options).Failure;
            if (failure is null)
                continue;
            output.WriteLine(failure);
            Assert.Contains("QCOW2FUSE_CRASH_SEED=0x", failure, StringComparison.Ordinal);
            return;
        }

        Assert.Fail($"{fault} was not noticed in 60 runs");
    }

    [Fact]
    public void A_disk_that_forgets_flushes_is_caught()
    {
        CrashRunOptions options = new() { States = 400, Filter = disk => new FlushDroppingDevice(disk, keepEvery: 3) };
        Assert.Contains(
            Enumerable.Range(1, 20),
            seed => CrashRun.Run(new NaiveSubject(), (ulong)seed, options).Failure is not null);
    }

    [SkippableFact]
    public void QEMU_agrees_with_the_judge_about_a_state_in_a_hundred()
    {
        QemuTools.RequireTool("qemu-img");
        CrashFleetResult result = CrashFleet.Random(
            new NaiveSubject(), 1000, 40, new CrashRunOptions { States = 250 }, qemuEvery: 100);
        output.WriteLine(result.ToString());
        Assert.Empty(result.Failures);
        Assert.Equal(100, result.AskedQemu);
    }

    [Fact]
    public void All_short_sequences_are_tried_and_catch_a_wrong_order_too()
    {
        SeededRandom random = new(1);
        ImageKind[] kinds = [ImageKind.Create(12, 3, extended: false, backing: 3, prefilledPercent: 50, random)];
        CrashFleetResult right = CrashFleet.Exhaustive(new NaiveSubject(), kinds, statesPerRun: 40, qemuEvery: 0);
        output.WriteLine(right.ToString());
        Assert.Empty(right.Failures);
        Assert.Equal(7 + (7 * 7) + (7 * 7 * 7), right.Runs);
        foreach (NaiveFault fault in (NaiveFault[])[NaiveFault.LinkWithoutFlush, NaiveFault.ZeroBeforeWrite])
            Assert.NotEmpty(CrashFleet.Exhaustive(new NaiveSubject(fault), kinds, 40, 0).Failures);
    }

    [Theory]
    [InlineData(9)]
    [InlineData(12)]
    [InlineData(16)]
    public void After_each_failed_request_the_right_engine_is_still_right(int clusterBits)
    {
        CrashFleetResult result = FailEach(NaiveFault.None, clusterBits);
        output.WriteLine(result.ToString());
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
        Assert.True(result.Runs > 50);
    }

    [Theory]
    [InlineData(NaiveFault.ForgetsFailedFlush)]
    [InlineData(NaiveFault.SwallowsErrors)]
    public void A_wrong_answer_to_a_failed_request_is_caught(NaiveFault fault)
    {
        CrashFleetResult result = FailEach(fault, 12);
        Assert.NotEmpty(result.Failures);
        output.WriteLine(result.Failures[0]);
    }

    private static CrashFleetResult FailEach(NaiveFault fault, int clusterBits)
    {
        ImageKind kind = ImageKind.Create(clusterBits, 3, extended: false, 2, 30, new SeededRandom(2));
        CrashRunOptions options = new() { Kind = kind, Rounds = 25, States = 40, RecoverEvery = 13 };
        return CrashFleet.FailEach(
            new NaiveSubject(fault), 6, options, BlockOp.Read, BlockOp.Write, BlockOp.WriteZeroes, BlockOp.Flush);
    }
}
