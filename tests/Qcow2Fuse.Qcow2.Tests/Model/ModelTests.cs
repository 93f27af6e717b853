// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Model;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Model;

/// <summary>
/// Random operations on images of every kind against a plain array of bytes. QCOW2FUSE_MODEL_SEED is the first seed,
/// QCOW2FUSE_MODEL_CASES how many cases, QCOW2FUSE_MODEL_OPS how many operations at most in each,
/// QCOW2FUSE_MODEL_SECONDS how long to go on instead of a number of cases, and QCOW2FUSE_MODEL_REPLAY one case with its
/// steps, as a failure prints it.
/// </summary>
[Trait(Speed.Name, Speed.Scaled)]
public sealed class ModelTests(ITestOutputHelper output)
{
    private const ulong DefaultSeed = 0xC0DE0000;
    private const int DefaultCases = 402;
    private const int DefaultOps = 500;

    private static readonly TimeSpan s_progressInterval = TimeSpan.FromSeconds(20);

    private TimeSpan _nextProgress = s_progressInterval;

    [SkippableFact]
    public void Random_operations_do_what_they_do_to_an_array()
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.RequireTool("qemu-io");
        ulong seed = Setting("QCOW2FUSE_MODEL_SEED", DefaultSeed);
        int count = (int)Setting("QCOW2FUSE_MODEL_CASES", DefaultCases);
        int ops = (int)Setting("QCOW2FUSE_MODEL_OPS", DefaultOps);
        int seconds = (int)Setting("QCOW2FUSE_MODEL_SECONDS", 0);
        using CancellationTokenSource time = new();
        if (seconds > 0)
            time.CancelAfter(TimeSpan.FromSeconds(seconds));
        if (seconds > 0)
            Console.WriteLine($"{seconds} s from seed 0x{seed:x} on");
        IEnumerable<ModelCase> cases = ModelFleet.Cases(seed);
        ModelFleetResult result = ModelFleet.Run(
            seconds > 0 ? cases : cases.Take(count), ops, time.Token, seconds > 0 ? Progress : null);

        output.WriteLine($"seed 0x{seed:x}: {result}");
        if (seconds > 0)
            Console.WriteLine($"seed 0x{seed:x}: {result}");
        Assert.True(result.Failures.Count == 0, string.Join("\n\n", result.Failures));
        if (result.Cases < DefaultCases)
            return;
        Assert.Equal(0, result.Coverage.MissingValues);
        Assert.Equal(0, result.Coverage.MissingPairs);
        Assert.Equal(ModelCase.AllValid.Count, result.Coverage.Combinations);
    }

    [SkippableFact]
    public void One_model_case() => Replay(
        Environment.GetEnvironmentVariable("QCOW2FUSE_MODEL_REPLAY")
        ?? $"{ModelCoverage.Ordered[0] with { Seed = 7 }}; 1:write 100+5000; 2:reopen 0+0; 3:discard 0+9000");

    [Fact]
    public void A_part_of_the_combinations_has_all_pairs()
    {
        ModelCoverage coverage = new();
        int first = ModelCoverage.Ordered.TakeWhile(one =>
        {
            coverage.Add(one);
            return coverage.MissingPairs > 0;
        }).Count() + 1;
        output.WriteLine($"{first} cases have {coverage}");
        Assert.InRange(first, 2, 80);
        Assert.Equal(402, ModelCase.AllValid.Count);
        Assert.Equal(402, ModelCoverage.Ordered.Distinct().Count());
        Assert.Equal(11, ModelCoverage.ExcludedPairs);
    }

    [Fact]
    public void A_case_and_a_step_are_read_as_they_are_printed()
    {
        foreach (ModelCase one in ModelCoverage.Ordered.Take(50))
            Assert.Equal(one with { Seed = 0xABC }, ModelCase.Parse((one with { Seed = 0xABC }).ToString()));
        ModelStep step = new(3, "write", 123, 456);
        Assert.Equal(step, ModelStep.Parse(step.ToString()));
        Assert.Throws<FormatException>(() => ModelStep.Parse("3 write"));
        Assert.Throws<FormatException>(() => ModelCase.Parse("version=4"));
    }

    [SkippableFact]
    public void A_disk_that_drops_a_byte_is_found_and_the_case_shrinks_to_one_write()
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.RequireTool("qemu-io");
        ModelCase one = ModelCase.Parse(
            "version=3 cluster=4096 l2=standard refcount=16 backing=shorter data-file=no compressed=yes seed=0x5");
        ModelImage image = ModelImage.Create(one);
        IReadOnlyList<ModelStep> steps = ModelFleet.StepsOf(image, 200);
        BlockDevice Filter(BlockDevice device) => new DroppingDevice(device);
        ModelRunResult result = ModelRun.Run(image, steps, Filter);
        Assert.NotNull(result.Failure);

        (IReadOnlyList<ModelStep> left, string failure) = ModelShrinker.Shrink(image, steps, result.Failure, Filter);

        output.WriteLine(ModelFleet.Explain(image, steps, result.Failure, Filter));
        ModelStep step = Assert.Single(left);
        Assert.Equal("write", step.Kind);
        Assert.True(step.Offset <= DroppingDevice.Place && step.Offset + step.Length > DroppingDevice.Place);
        Assert.Equal(1, step.Length);
        Assert.Contains("is 0x", failure, StringComparison.Ordinal);
        Assert.Null(ModelRun.Run(image, left).Failure);
    }

    private static void Replay(string replay)
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.RequireTool("qemu-io");
        string[] parts = replay.Split(';', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
        ModelImage image = ModelImage.Create(ModelCase.Parse(parts[0]));
        ModelRunResult result = ModelRun.Run(image, [.. parts.Skip(1).Select(ModelStep.Parse)]);
        Assert.True(result.Failure is null, result.Failure);
    }

    private void Progress(ModelFleetResult result)
    {
        if (result.Elapsed < _nextProgress)
            return;
        _nextProgress = result.Elapsed + s_progressInterval;
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{result.Elapsed.TotalSeconds:f0} s: {result.Cases} cases, {result.Operations} operations, ")
            + $"{result.Failures.Count} failures");
    }

    private static ulong Setting(string name, ulong otherwise)
    {
        string? value = Environment.GetEnvironmentVariable(name);
        if (string.IsNullOrEmpty(value))
            return otherwise;
        return value.StartsWith("0x", StringComparison.OrdinalIgnoreCase)
            ? ulong.Parse(value.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture)
            : ulong.Parse(value, CultureInfo.InvariantCulture);
    }

    /// <summary>Never writes the byte at one place.</summary>
    private sealed class DroppingDevice(BlockDevice child) : PassThroughDevice(child)
    {
        public const long Place = 65536;

        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            if (offset > Place || offset + source.Length <= Place)
            {
                Child.Write(offset, source);
                return;
            }

            byte[] changed = source.ToArray();
            Child.Read(Place, changed.AsSpan((int)(Place - offset), 1));
            Child.Write(offset, changed);
        }
    }
}
