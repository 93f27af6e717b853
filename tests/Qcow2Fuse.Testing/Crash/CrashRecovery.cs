// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>
/// The engine opens what a crash left, sees what the plain reader sees, works on it, and leaves it sound.
/// </summary>
/// <param name="disk">Where contents and moments come from; it is not changed.</param>
/// <param name="open">Opens an image with the engine.</param>
/// <param name="workload">What to do after the crash.</param>
/// <param name="history">Makes the bytes that are written.</param>
public sealed class CrashRecovery(
    CrashDevice disk, Func<BlockDevice, BlockDevice> open, CrashWorkload workload, GuestHistory history)
{
    private const int OpsPerState = 4;

    /// <summary>What goes wrong with a state the judge has accepted, or null.</summary>
    public string? Try(SectorImage state, CrashJudge judge)
    {
        CrashDevice copy = new(disk.Clock, disk.Table);
        copy.Load(state);
        byte[] expected = judge.Open(state).ReadAll();
        try
        {
            return Work(copy, expected) ?? Compare(judge.Open(copy.Current), expected);
        }
        catch (BlockException failure)
        {
            return "the engine cannot work on what the crash left: " + failure;
        }
    }

    private static string? Compare(PlainReader after, byte[] expected)
    {
        PlainCheck check = after.Check();
        if (check.Errors.Count > 0)
            return "after working on the crashed image: " + string.Join("; ", check.Errors);
        return after.ReadAll().AsSpan().SequenceEqual(expected)
            ? null
            : "after working on the crashed image it holds wrong bytes";
    }

    private string? Work(CrashDevice copy, byte[] expected)
    {
        byte[] seen = new byte[expected.Length];
        using BlockDevice device = open(copy);
        device.Read(0, seen);
        if (!seen.AsSpan().SequenceEqual(expected))
            return "reopened after the crash, the engine reads other bytes than the plain reader";
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
