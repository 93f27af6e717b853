// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Testing.Model;

/// <summary>What came of many cases.</summary>
public sealed class ModelFleetResult
{
    /// <summary>Which values and pairs the cases had.</summary>
    public ModelCoverage Coverage { get; } = new();

    /// <summary>Cases done.</summary>
    public int Cases { get; set; }

    /// <summary>Operations done in them.</summary>
    public long Operations { get; set; }

    /// <summary>Kinds of operations that the engine refused as not supported, with the number of cases.</summary>
    public SortedDictionary<string, int> Refused { get; } = new(StringComparer.Ordinal);

    /// <summary>The failures, each with the case, the shrunk list of steps and how to see it again.</summary>
    public List<string> Failures { get; } = [];

    /// <summary>How long it took.</summary>
    public TimeSpan Elapsed { get; set; }

    /// <inheritdoc/>
    public override string ToString()
    {
        IEnumerable<string> lines =
        [
            string.Create(
                CultureInfo.InvariantCulture,
                $"{Cases} cases, {Operations} operations, {Elapsed.TotalSeconds:f1} s, {Failures.Count} failures"),
            Coverage.ToString(),
            .. Refused.Select(pair => $"{pair.Key} was refused: {pair.Value} cases went on without"),
        ];
        return string.Join('\n', lines);
    }
}

/// <summary>Runs many cases on all processors.</summary>
public static class ModelFleet
{
    private const int FailuresMax = 3;

    /// <summary>
    /// The cases of a first seed: all combinations, pairs first, then again with other seeds.
    /// </summary>
    public static IEnumerable<ModelCase> Cases(ulong firstSeed)
    {
        for (ulong seed = firstSeed; ; seed += (ulong)ModelCoverage.Ordered.Count)
        {
            for (int i = 0; i < ModelCoverage.Ordered.Count; i++)
                yield return ModelCoverage.Ordered[i] with { Seed = seed + (ulong)i };
        }
    }

    /// <summary>Runs cases until they end or the time is over; stops early after three failures.</summary>
    /// <param name="cases">The cases.</param>
    /// <param name="operationsMax">At most this many operations in each.</param>
    /// <param name="stop">Ends it when cancelled.</param>
    /// <param name="progress">Called after each case, or null.</param>
    public static ModelFleetResult Run(
        IEnumerable<ModelCase> cases, int operationsMax, CancellationToken stop = default,
        Action<ModelFleetResult>? progress = null)
    {
        Stopwatch watch = Stopwatch.StartNew();
        ModelFleetResult result = new();
        ParallelOptions parallel = new() { MaxDegreeOfParallelism = Math.Min(4, Environment.ProcessorCount) };
        OrderablePartitioner<ModelCase> oneByOne =
            Partitioner.Create(cases, EnumerablePartitionerOptions.NoBuffering);
        Parallel.ForEach(oneByOne, parallel, (one, loop) =>
        {
            if (stop.IsCancellationRequested)
            {
                loop.Stop();
                return;
            }

            ModelImage image = ModelImage.Create(one);
            IReadOnlyList<ModelStep> steps = StepsOf(image, operationsMax);
            ModelRunResult run = ModelRun.Run(image, steps);
            string? failure = run.Failure is null ? null : Explain(image, steps, run.Failure);
            lock (result)
            {
                Add(result, one, run, failure);
                result.Elapsed = watch.Elapsed;
                progress?.Invoke(result);
                if (result.Failures.Count >= FailuresMax)
                    loop.Stop();
            }
        });
        result.Elapsed = watch.Elapsed;
        return result;
    }

    /// <summary>The steps of a case.</summary>
    public static IReadOnlyList<ModelStep> StepsOf(ModelImage image, int operationsMax) =>
        new ModelDraw(image.Case, image.Size, new SeededRandom(SeededRandom.Mix(image.Case.Seed) ^ 0x57E9))
            .Steps(Math.Min(image.StepCount, operationsMax));

    /// <summary>Shrinks a failed case, and says what fails and how to see it again.</summary>
    public static string Explain(
        ModelImage image, IReadOnlyList<ModelStep> steps, string failure,
        Func<BlockDevice, BlockDevice>? filter = null)
    {
        (IReadOnlyList<ModelStep> left, string last) = ModelShrinker.Shrink(image, steps, failure, filter);
        return $"{image.Case}\n{steps.Count} steps shrunk to {left.Count}: {last}\n"
            + $"again: QCOW2FUSE_MODEL_REPLAY='{image.Case}; {string.Join("; ", left)}'"
            + " dotnet test tests/Qcow2Fuse.Qcow2.Tests --filter One_model_case";
    }

    private static void Add(ModelFleetResult result, ModelCase one, ModelRunResult run, string? failure)
    {
        result.Cases++;
        result.Operations += run.Done;
        result.Coverage.Add(one);
        foreach (string kind in run.Refused)
            result.Refused[kind] = result.Refused.GetValueOrDefault(kind) + 1;
        if (failure is not null)
            result.Failures.Add(failure);
    }
}
