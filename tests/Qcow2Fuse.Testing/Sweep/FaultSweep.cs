// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Model;

namespace Qcow2Fuse.Testing.Sweep;

/// <summary>What came of a workload in which each request failed once in each way.</summary>
public sealed class FaultSweepResult
{
    /// <summary>Operations of the workload.</summary>
    public int Steps { get; set; }

    /// <summary>Requests of the engine to its files, by kind.</summary>
    public IReadOnlyList<(bool OnDataFile, BlockOp Op, int Count)> Requests { get; set; } = [];

    /// <summary>Trials in which a request failed.</summary>
    public int Trials { get; set; }

    /// <summary>Trials in which a caller was told; in the others the engine freed space and tried again.</summary>
    public int Reported { get; set; }

    /// <summary>Trials after which clusters were lost, and the most that were.</summary>
    public (int Trials, long Most) Leaks { get; set; }

    /// <summary>The first failures.</summary>
    public List<string> Failures { get; } = [];

    /// <summary>How long it took.</summary>
    public TimeSpan Elapsed { get; set; }

    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"{Steps} operations, {Requests.Sum(one => one.Count)} requests, {Trials} trials, {Reported} reported, ")
        + string.Create(
            CultureInfo.InvariantCulture,
            $"{Leaks.Trials} leaked (at most {Leaks.Most} clusters), {Elapsed.TotalSeconds:f1} s, ")
        + string.Create(CultureInfo.InvariantCulture, $"{Failures.Count} failures");
}

/// <summary>
/// Fails every request of a workload, one in each trial: with EIO, with ENOSPC, half-done, and done but reported as
/// failed.
/// </summary>
public static class FaultSweep
{
    private const int FailuresMax = 3;

    private static readonly string[] s_kinds =
        ["write", "write", "write", "write", "read", "read", "zero", "unmap", "discard", "flush", "grow", "shrink"];

    /// <summary>A workload of steps of all kinds, which flushes now and then and at its end.</summary>
    public static IReadOnlyList<ModelStep> Workload(ModelImage image, int count)
    {
        SeededRandom random = new(image.Case.Seed + 1);
        ModelDraw draw = new(image.Case, image.Size, random);
        List<ModelStep> steps = [];
        for (int i = 1; i < count; i++)
        {
            string kind = random.Pick<string>(s_kinds);
            if (kind is "grow" or "shrink" && random.Chance(70))
                kind = "write";
            (long offset, long length) = ModelOperation.Named(kind).Draw(draw);
            steps.Add(new ModelStep(i, kind, offset, length));
        }

        return [.. steps, new ModelStep(count, "flush", 0, 0)];
    }

    /// <summary>Runs a trial for every request and every way to fail; stops early after three failures.</summary>
    public static FaultSweepResult Run(ModelImage image, int steps)
    {
        Stopwatch watch = Stopwatch.StartNew();
        IReadOnlyList<ModelStep> workload = Workload(image, steps);
        FaultSweepResult result = new()
        {
            Steps = workload.Count,
            Requests = SweepTrial.Record(image, workload),
        };
        ParallelOptions parallel = new() { MaxDegreeOfParallelism = Math.Min(4, Environment.ProcessorCount) };
        Parallel.ForEach(Faults(result.Requests), parallel, (fault, loop) =>
        {
            SweepResult trial = SweepTrial.Run(image, workload, fault);
            lock (result)
            {
                Add(result, trial, fault, image);
                if (result.Failures.Count >= FailuresMax)
                    loop.Stop();
            }
        });
        result.Elapsed = watch.Elapsed;
        return result;
    }

    private static IEnumerable<SweepFault> Faults(IReadOnlyList<(bool OnDataFile, BlockOp Op, int Count)> requests)
    {
        foreach ((bool onDataFile, BlockOp op, int count) in requests)
        {
            for (int nth = 1; nth <= count; nth++)
            {
                FaultRule rule = new() { Op = op, Nth = nth, TornAlignment = SectorTable.SectorSize };
                yield return new SweepFault(onDataFile, rule);
                yield return new SweepFault(onDataFile, rule with { Error = BlockErrorKind.NoSpace });
                if (op is not (BlockOp.Flush or BlockOp.Resize))
                    yield return new SweepFault(onDataFile, rule with { IsShort = true });
                if (op == BlockOp.Write)
                    yield return new SweepFault(onDataFile, rule with { TornBytes = int.MaxValue, TornAlignment = 1 });
            }
        }
    }

    private static void Add(FaultSweepResult result, SweepResult trial, SweepFault fault, ModelImage image)
    {
        result.Trials += trial.WasHit ? 1 : 0;
        result.Reported += trial.WasReported ? 1 : 0;
        if (trial.Leaks > 0)
            result.Leaks = (result.Leaks.Trials + 1, Math.Max(result.Leaks.Most, trial.Leaks));
        if (trial.Failure is not null)
            result.Failures.Add($"{image.Case}\n{fault}\n{trial.Failure}");
        else if (!trial.WasHit)
            result.Failures.Add($"{image.Case}\n{fault}\nthe request never came");
    }
}
