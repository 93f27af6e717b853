// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Model;
using Qcow2Fuse.Testing.Sweep;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Faults;

/// <summary>
/// Every single request of recorded workloads fails once with EIO, once with ENOSPC and once half-done.
/// QCOW2FUSE_SWEEP_OPS makes the workloads longer, QCOW2FUSE_SWEEP_SEED makes other ones.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class FaultSweepTests(ITestOutputHelper output)
{
    private const int DefaultOps = 100;

    [SkippableTheory]
    [InlineData("version=3 cluster=512 l2=standard refcount=16 backing=none data-file=no compressed=no seed=0x11")]
    [InlineData("version=2 cluster=512 l2=standard refcount=16 backing=shorter data-file=no compressed=yes seed=0x12")]
    [InlineData("version=3 cluster=4096 l2=standard refcount=1 backing=longer data-file=no compressed=yes seed=0x13")]
    [InlineData("version=3 cluster=65536 l2=extended refcount=16 backing=longer data-file=no compressed=yes seed=0x14")]
    [InlineData("version=3 cluster=65536 l2=standard refcount=64 backing=none data-file=no compressed=no seed=0x15")]
    [InlineData("version=3 cluster=4096 l2=standard refcount=16 backing=shorter data-file=yes compressed=no seed=0x16")]
    public void Each_request_that_fails_is_reported_and_harms_nothing(string kind) => Sweep(kind, DiscardMode.Unmap);

    [SkippableTheory]
    [InlineData("version=3 cluster=4096 l2=standard refcount=16 backing=shorter data-file=no compressed=yes seed=0x17")]
    [InlineData("version=3 cluster=65536 l2=extended refcount=16 backing=longer data-file=no compressed=yes seed=0x18")]
    [InlineData("version=3 cluster=65536 l2=extended refcount=16 backing=none data-file=yes compressed=no seed=0x19")]
    public void Nor_where_discarded_clusters_keep_their_place(string kind) => Sweep(kind, DiscardMode.NoUnref);

    private void Sweep(string kind, DiscardMode discard)
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.RequireTool("qemu-io");
        int ops = (int)Setting("QCOW2FUSE_SWEEP_OPS", DefaultOps);
        ModelCase one = ModelCase.Parse(kind);
        one = one with { Seed = one.Seed + Setting("QCOW2FUSE_SWEEP_SEED", 0) };
        ModelImage image = ModelImage.Create(one, one.ClusterSize < 65536 ? 200_192 : 460_800, discard);
        FaultSweepResult result = FaultSweep.Run(image, ops);
        output.WriteLine(result.ToString());
        foreach (var (onDataFile, op, count) in result.Requests.Where(each => each.Count > 0))
            output.WriteLine($"{count} x {op}{(onDataFile ? " of the data file" : "")}");
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
        Assert.True(result.Trials >= 2 * result.Requests.Sum(each => each.Count));
    }

    private static ulong Setting(string name, ulong otherwise) =>
        Environment.GetEnvironmentVariable(name) is { Length: > 0 } value
            ? ulong.Parse(value, CultureInfo.InvariantCulture)
            : otherwise;
}
