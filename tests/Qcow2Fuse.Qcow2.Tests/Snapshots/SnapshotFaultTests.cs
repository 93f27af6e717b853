// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Snapshots;

/// <summary>Every request to the file fails once, and the power fails at every moment.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class SnapshotFaultTests
{
    /// <summary>What is written after a failure, to the end of the disk.</summary>
    private const int LaterBytes = 3 << 20;

    public static TheoryData<string, int, bool> Changes()
    {
        var changes = new TheoryData<string, int, bool>();
        foreach (string change in (string[])["create", "apply", "delete"])
        {
            changes.Add(change, 512, false);
            changes.Add(change, 4096, false);
            changes.Add(change, 16384, true);
        }

        return changes;
    }

    [Theory]
    [MemberData(nameof(Changes))]
    public void A_failing_request_is_an_error_and_harms_nothing(string change, int clusterSize, bool extendedL2)
    {
        foreach (BlockOp op in
            (BlockOp[])[BlockOp.Read, BlockOp.Write, BlockOp.WriteZeroes, BlockOp.Discard, BlockOp.Flush])
        {
            for (int nth = 1; ; nth++)
            {
                using SnapshotRun run = Prepare(clusterSize, extendedL2, sizeMin: 4 * LaterBytes / 3);
                run.Image.Faults.ResetCounts();
                run.Image.Faults.Fail(new FaultRule { Op = op, Nth = nth });
                byte[] before = (byte[])run.Disk.Clone();
                bool failed = false;
                try
                {
                    Change(run, change);
                }
                catch (BlockException e)
                {
                    failed = true;
                    Assert.Equal(BlockErrorKind.Io, e.Kind);
                }

                run.Image.Faults.Heal();
                if (run.Image.Faults.FailureCount == 0)
                {
                    Assert.False(failed);
                    break;
                }

                // Nobody relies on a discard.
                Assert.True(failed == (op != BlockOp.Discard), $"{op} {nth} failed and nobody heard of it");
                ShouldBeOldOrNew(run, change, before, $"{op} {nth}", flushWorks: op != BlockOp.Flush);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Changes))]
    public void A_torn_write_that_fails_harms_nothing(string change, int clusterSize, bool extendedL2)
    {
        for (int nth = 1; ; nth++)
        {
            using SnapshotRun run = Prepare(clusterSize, extendedL2, sizeMin: 4 * LaterBytes / 3);
            run.Image.Faults.Fail(new FaultRule { Op = BlockOp.Write, Nth = nth, TornBytes = 1 << 30 });
            byte[] before = (byte[])run.Disk.Clone();
            try
            {
                Change(run, change);
            }
            catch (BlockException)
            {
                // Compared below.
            }

            run.Image.Faults.Heal();
            if (run.Image.Faults.FailureCount == 0)
                break;
            ShouldBeOldOrNew(run, change, before, $"torn write {nth}", flushWorks: true);
        }
    }

    [Theory]
    [MemberData(nameof(Changes))]
    public void A_power_cut_leaves_the_old_or_the_new_state(string change, int clusterSize, bool extendedL2)
    {
        using SnapshotRun run = Prepare(clusterSize, extendedL2);
        byte[] before = (byte[])run.Disk.Clone();
        Dictionary<string, byte[]> snapshotsBefore = new(run.Expected, StringComparer.Ordinal);
        run.Image.Disk.StartRecording();
        Change(run, change);
        int old = 0;
        int changed = 0;
        int count = clusterSize > 4096 ? 200 : 800;
        CrashStates states = new(run.Image.Disk.Initial, run.Image.Disk.Log, seed: 1, count);
        while (states.Next())
        {
            PlainReader plain = new(states.State);
            PlainCheck check = plain.Check(allowStaleFlags: true);
            Assert.True(check.Errors.Count == 0, string.Join("; ", check.Errors) + "\n" + states.Describe());
            bool isOld = Holds(plain, before, snapshotsBefore);
            bool isNew = Holds(plain, run.Disk, run.Expected);
            Assert.True(isOld || isNew, "neither old nor new: " + states.Describe());
            old += isOld ? 1 : 0;
            changed += isNew ? 1 : 0;
        }

        Assert.True(old > 0 && changed > 0, $"{old} states are old and {changed} new");
    }

    [Fact]
    public void A_power_cut_during_changes_and_writes_leaves_every_snapshot_whole()
    {
        for (ulong seed = 1; seed <= 4; seed++)
        {
            using SnapshotRun run = new(seed, version: 3, clusterSize: 512, extendedL2: false, clusters: 40);
            run.Write(0, 9000);
            run.Create();
            run.Device.Flush();
            run.Image.Disk.StartRecording();
            var known = new Dictionary<string, byte[]>(run.Expected, StringComparer.Ordinal);
            for (int i = 0; i < 30; i++)
            {
                run.Step(withSnapshots: i % 3 == 0);
                foreach ((string id, byte[] bytes) in run.Expected)
                    known[$"{id} {run.Device.Snapshots.Single(s => s.Id == id).Name}"] = bytes;
            }

            CrashStates states = new(run.Image.Disk.Initial, run.Image.Disk.Log, seed, count: 800);
            while (states.Next())
            {
                PlainReader plain = new(states.State);
                PlainCheck check = plain.Check(allowStaleFlags: true);
                Assert.True(check.Errors.Count == 0, string.Join("; ", check.Errors) + "\n" + states.Describe());
                plain.ReadAll();
                foreach (PlainSnapshot snapshot in plain.Snapshots())
                {
                    byte[] expected = known.TryGetValue($"{snapshot.Id} {snapshot.Name}", out byte[]? bytes)
                        ? bytes : known[snapshot.Id];
                    Assert.True(
                        plain.At(snapshot).ReadAll().AsSpan().SequenceEqual(expected),
                        $"snapshot {snapshot.Name}: {states.Describe()}");
                }
            }
        }
    }

    private static SnapshotRun Prepare(int clusterSize, bool extendedL2, int sizeMin = 0)
    {
        SnapshotRun run = new(
            7, version: 3, clusterSize, extendedL2, compressed: true, clusters: Math.Max(30, sizeMin / clusterSize));
        int unit = clusterSize;
        run.Write(unit, unit * 12);
        run.Create();
        run.Write(unit * 3, unit * 2);
        run.Create();
        run.Write(unit * 8, unit * 20);
        run.Device.WriteZeroes(unit * 20, unit * 2, mayUnmap: false);
        run.Disk.AsSpan(unit * 20, unit * 2).Clear();
        run.Image.Reopen();
        return run;
    }

    private static void Change(SnapshotRun run, string change)
    {
        switch (change)
        {
            case "create":
                run.Create();
                break;
            case "apply":
                run.Apply("1");
                break;
            default:
                run.Delete("1");
                break;
        }
    }

    /// <summary>
    /// After a failed change: the engine and the file are old or new as a whole and go on working.
    /// </summary>
    private static void ShouldBeOldOrNew(SnapshotRun run, string change, byte[] before, string what, bool flushWorks)
    {
        byte[] later = [];
        if (flushWorks)
        {
            // New clusters are asked for while the engine knows of the tables what it knew when the change failed.
            run.Device.Flush();
            run.Write(run.Disk.Length - LaterBytes, LaterBytes);
            run.Device.Flush();
            later = run.Disk[^LaterBytes..];
        }

        byte[] old = [.. before.AsSpan(0, before.Length - later.Length), .. later];

        run.Image.Reopen();
        PlainReader plain = run.Image.Plain;
        PlainCheck check = plain.Check(allowStaleFlags: true);
        Assert.True(check.Errors.Count == 0, $"{what}: {string.Join("; ", check.Errors)}");
        int count = plain.Snapshots().Count;
        bool isDone = change switch
        {
            "create" => count == 3,
            "delete" => count == 1,
            _ => !plain.ReadAll().AsSpan().SequenceEqual(old),
        };
        bool wasRecorded = change switch
        {
            "create" => run.Expected.Count == 3,
            "delete" => run.Expected.Count == 1,
            _ => !run.Disk.AsSpan().SequenceEqual(old),
        };
        if (isDone && !wasRecorded)
        {
            if (change == "create")
                run.Expected.Add("3", before);
            else if (change == "delete")
                run.Expected.Remove("1");
            else
                run.Expected["1"].AsSpan(0, before.Length - later.Length).CopyTo(run.Disk);
        }
        else if (flushWorks && !isDone)
        {
            Assert.True(check.Leaks == 0, $"{what}: {check.Leaks} clusters leaked");
            Assert.True(plain.Check().Errors.Count == 0, $"{what}: {string.Join("; ", plain.Check().Errors)}");
        }

        Assert.True(Holds(plain, run.Disk, run.Expected), $"{what}: neither old nor new");
        run.Write(100, 5000);
        run.Create();
        run.Write(3000, 30000 % (run.Disk.Length - 3000));
        Assert.True(Holds(AfterFlush(run), run.Disk, run.Expected), $"{what}: wrong after more writes");
    }

    private static PlainReader AfterFlush(SnapshotRun run)
    {
        run.Device.Flush();
        return run.Image.Plain;
    }

    private static bool Holds(PlainReader plain, byte[] disk, Dictionary<string, byte[]> snapshots)
    {
        IReadOnlyList<PlainSnapshot> found = plain.Snapshots();
        return found.Count == snapshots.Count
            && plain.Size == disk.Length
            && plain.ReadAll().AsSpan().SequenceEqual(disk)
            && found.All(snapshot => snapshots.TryGetValue(snapshot.Id, out byte[]? expected)
                && plain.At(snapshot).ReadAll().AsSpan().SequenceEqual(expected));
    }
}
