// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>
/// The engine opens what a crash left, sees what the plain reader sees, works on it, and leaves it sound. An image that
/// is marked dirty is repaired when it is opened; the power fails during that too.
/// </summary>
/// <param name="disk">Where contents and moments come from; it is not changed.</param>
/// <param name="open">Opens an image and its data file with the engine.</param>
/// <param name="workload">What to do after the crash.</param>
/// <param name="history">Makes the bytes that are written.</param>
public sealed class CrashRecovery(
    CrashDevice disk, Func<BlockDevice, BlockDevice?, BlockDevice> open, CrashWorkload workload, GuestHistory history)
{
    private const int OpsPerState = 4;
    private const int StatesPerRepair = 6;

    /// <summary>How many images were repaired when they were opened.</summary>
    public long Repaired { get; private set; }

    /// <summary>What goes wrong with a state the judge has accepted, or null.</summary>
    public string? Try(SectorImage state, SectorImage? data, CrashJudge judge, long time)
    {
        CrashDevice copy = CopyOf(state);
        CrashDevice? dataCopy = data is null ? null : CopyOf(data);
        PlainReader crashed = judge.Open(state, data);
        bool isDirty = crashed.Header.Dirty;
        byte[] expected = crashed.ReadAll();
        try
        {
            return (isDirty ? CutOffRepair(state, data, judge, time) : null)
                ?? Work(copy, dataCopy, expected)
                ?? judge.JudgeImage(copy.Current, time, dataCopy?.Current)
                ?? Compare(judge.Open(copy.Current, dataCopy?.Current), expected, judge, isDirty);
        }
        catch (BlockException failure)
        {
            return "the engine cannot work on what the crash left: " + failure;
        }
    }

    private static string? Compare(PlainReader after, byte[] expected, CrashJudge judge, bool wasRepaired)
    {
        if (Unsound(after, judge.AllowsStaleFlags && !wasRepaired, wasRepaired) is { } wrong)
            return "after working on the crashed image: " + wrong;
        return after.ReadAll().AsSpan().SequenceEqual(expected)
            ? null
            : "after working on the crashed image it holds wrong bytes";
    }

    private static string? Unsound(PlainReader reader, bool allowStaleFlags, bool wasRepaired)
    {
        PlainCheck check = reader.Check(allowStaleFlags);
        return reader.Header.Dirty ? "it is marked dirty"
            : check.Errors.Count > 0 ? string.Join("; ", check.Errors)
            : wasRepaired && check.Leaks > 0 ? $"{check.Leaks} leaked clusters"
            : null;
    }

    /// <summary>
    /// A repair leaves a sound image, and one that is cut off leaves an image like any crash does, which can be
    /// repaired.
    /// </summary>
    private string? CutOffRepair(SectorImage state, SectorImage? data, CrashJudge judge, long time)
    {
        CrashDevice repaired = Reopened(state, data);
        Repaired++;
        if (Unsound(judge.Open(repaired.Current, data), allowStaleFlags: false, wasRepaired: true) is { } unsound)
            return "repaired by opening it: " + unsound;
        CrashStates cuts = new(repaired.Initial, repaired.Log, (ulong)time, StatesPerRepair);
        while (cuts.Next())
        {
            string? wrong = judge.Judge(cuts.State, time, data);
            if (wrong is null)
            {
                PlainReader again = judge.Open(Reopened(cuts.State, data).Current, data);
                wrong = Unsound(again, allowStaleFlags: false, wasRepaired: true);
            }

            if (wrong is not null)
                return $"a repair that was cut off ({cuts.Describe()}): {wrong}";
        }

        return null;
    }

    private CrashDevice Reopened(SectorImage state, SectorImage? data)
    {
        CrashDevice copy = CopyOf(state);
        using (open(copy, data is null ? null : CopyOf(data)))
            return copy;
    }

    private CrashDevice CopyOf(SectorImage state)
    {
        CrashDevice copy = new(disk.Clock, disk.Table);
        copy.Load(state);
        return copy;
    }

    private string? Work(CrashDevice copy, CrashDevice? data, byte[] expected)
    {
        byte[] seen = new byte[expected.Length];
        using BlockDevice device = open(copy, data);
        device.Read(0, seen);
        if (!seen.AsSpan().SequenceEqual(expected))
            return "reopened after the crash, the engine reads other bytes than the plain reader";
        workload.Size = device.Length;
        for (int i = 0; i < OpsPerState; i++)
        {
            GuestOp op = workload.Next(mayReopen: false);
            if (op.Kind == GuestOpKind.Write)
            {
                byte[] bytes = history.BytesOf(op);
                device.Write(op.Offset, bytes);
                bytes.CopyTo(expected.AsSpan((int)op.Offset));
            }
            else if (op.Kind is GuestOpKind.ZeroKeep or GuestOpKind.ZeroUnmap)
            {
                device.WriteZeroes(op.Offset, op.Length, op.Kind == GuestOpKind.ZeroUnmap);
                expected.AsSpan((int)op.Offset, op.Length).Clear();
            }
        }

        device.Flush();
        return null;
    }
}
