// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing.Faults;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>What came of many crash runs.</summary>
/// <param name="Runs">Runs that were done.</param>
/// <param name="States">States judged in them.</param>
/// <param name="AskedQemu">States that qemu-img judged too.</param>
/// <param name="Elapsed">How long it took.</param>
/// <param name="Failures">The first failures, one text each.</param>
public sealed record CrashFleetResult(
    long Runs, long States, long AskedQemu, TimeSpan Elapsed, IReadOnlyList<string> Failures)
{
    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"{Runs} runs, {States} states, {AskedQemu} by qemu-img, {Elapsed.TotalSeconds:f1} s, ")
        + string.Create(CultureInfo.InvariantCulture, $"{Failures.Count} failures");
}

/// <summary>Many crash runs on all processors, and every short sequence of operations.</summary>
public static class CrashFleet
{
    private const int FailuresMax = 3;

    /// <summary>Runs the seeds from <paramref name="firstSeed"/> on; stops early after three failures.</summary>
    /// <param name="subject">The engine.</param>
    /// <param name="firstSeed">The seed of the first run.</param>
    /// <param name="runs">How many runs.</param>
    /// <param name="options">What each run does; its <see cref="CrashRunOptions.SecondJudge"/> is replaced.</param>
    /// <param name="qemuEvery">Every how many states qemu-img judges too; 0 for never.</param>
    public static CrashFleetResult Random(
        ICrashSubject subject, ulong firstSeed, int runs, CrashRunOptions options, int qemuEvery = 1000) =>
        RunAll(subject, Enumerable.Range(0, runs).Select(i => (firstSeed + (ulong)i, options)), qemuEvery);

    /// <summary>
    /// Every sequence of up to three operations out of aligned write, unaligned write, zero, discard and flush, on
    /// each of <paramref name="kinds"/>. Operations of a sequence touch the same two clusters.
    /// </summary>
    public static CrashFleetResult Exhaustive(
        ICrashSubject subject, IEnumerable<ImageKind> kinds, int statesPerRun, int qemuEvery = 1000) =>
        RunAll(subject, kinds.Where(subject.Supports).SelectMany(kind => Sequences(kind, statesPerRun)), qemuEvery);

    /// <summary>
    /// One workload again and again: the first request of a kind to the file fails, then the second, until there is
    /// none left; for each of <paramref name="ops"/>.
    /// </summary>
    public static CrashFleetResult FailEach(
        ICrashSubject subject, ulong seed, CrashRunOptions options, params IEnumerable<BlockOp> ops)
    {
        Stopwatch watch = Stopwatch.StartNew();
        List<string> failures = [];
        long runs = 0, states = 0;
        foreach (BlockOp op in ops)
        {
            bool isThere = true;
            for (int nth = 1; isThere && failures.Count < FailuresMax; nth++)
            {
                FaultRule rule = new()
                {
                    Op = op,
                    Nth = nth,
                    Error = nth % 2 == 0 ? BlockErrorKind.NoSpace : BlockErrorKind.Io,
                    TornBytes = op == BlockOp.Write && nth % 3 == 0 ? 2 * SectorTable.SectorSize : 0,
                    TornAlignment = SectorTable.SectorSize,
                };
                CrashRunResult result = CrashRun.Run(subject, seed, options with { Fault = rule });
                runs++;
                states += result.States;
                isThere = result.FaultWasHit;
                if (result.Failure is not null)
                    failures.Add(result.Failure);
            }
        }

        return new CrashFleetResult(runs, states, 0, watch.Elapsed, failures);
    }

    private static IEnumerable<(ulong Seed, CrashRunOptions Options)> Sequences(ImageKind kind, int states)
    {
        Func<int, GuestOp>[] alphabet = Alphabet(kind);
        for (int length = 1; length <= 3; length++)
        {
            int count = (int)Math.Pow(alphabet.Length, length);
            for (int word = 0; word < count; word++)
            {
                GuestOp[] ops = new GuestOp[length];
                for (int i = 0, rest = word; i < length; i++, rest /= alphabet.Length)
                    ops[i] = alphabet[rest % alphabet.Length](i + 1);
                ulong seed = (ulong)((length * 1000) + word);
                yield return (seed, new CrashRunOptions { Kind = kind, Ops = ops, States = states, RecoverEvery = 10 });
            }
        }
    }

    private static Func<int, GuestOp>[] Alphabet(ImageKind kind)
    {
        int cluster = kind.ClusterSize;
        return
        [
            number => new GuestOp(number, GuestOpKind.Write, cluster, cluster),
            number => new GuestOp(number, GuestOpKind.Write, (2 * cluster) - 300, 700),
            number => new GuestOp(number, GuestOpKind.ZeroUnmap, cluster, cluster),
            number => new GuestOp(number, GuestOpKind.ZeroKeep, cluster, cluster),
            number => new GuestOp(number, GuestOpKind.ZeroUnmap, (2 * cluster) - 512, 1024),
            number => new GuestOp(number, GuestOpKind.Discard, cluster, 2 * cluster),
            number => new GuestOp(number, GuestOpKind.Flush, 0, 0),
        ];
    }

    private static CrashFleetResult RunAll(
        ICrashSubject subject, IEnumerable<(ulong Seed, CrashRunOptions Options)> work, int qemuEvery)
    {
        Stopwatch watch = Stopwatch.StartNew();
        QemuJudge? qemu = qemuEvery > 0 ? new QemuJudge(qemuEvery) : null;
        ConcurrentQueue<string> failures = [];
        long runs = 0, states = 0;
        ParallelOptions parallel = new() { MaxDegreeOfParallelism = Environment.ProcessorCount };
        Parallel.ForEach(work, parallel, (item, loop) =>
        {
            CrashRunOptions options = item.Options with { SecondJudge = qemu is null ? null : qemu.Judge };
            CrashRunResult result = CrashRun.Run(subject, item.Seed, options);
            Interlocked.Increment(ref runs);
            Interlocked.Add(ref states, result.States);
            if (result.Failure is null)
                return;
            failures.Enqueue(result.Failure);
            if (failures.Count >= FailuresMax)
                loop.Stop();
        });
        return new CrashFleetResult(runs, states, qemu?.Asked ?? 0, watch.Elapsed, [.. failures]);
    }
}
