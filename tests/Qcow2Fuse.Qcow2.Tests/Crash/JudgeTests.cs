// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Faults;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Crash;

/// <summary>The crash judge accepts an engine that is right and catches each of several that are wrong.</summary>
public sealed class JudgeTests(ITestOutputHelper output)
{
    public static TheoryData<NaiveFault> Faults =>
        [.. Enum.GetValues<NaiveFault>().Where(fault => fault != NaiveFault.None)];

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void An_engine_in_the_right_order_passes(int writers)
    {
        CrashRunOptions options = new() { Writers = writers, States = 400 };
        for (ulong seed = 1; seed <= 150; seed++)
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
}
