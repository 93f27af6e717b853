// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Testing.Model;

/// <summary>What operations on snapshots have in common.</summary>
public abstract class SnapshotOperation : ModelOperation
{
    /// <summary>Snapshots taken at most at one time: each keeps a copy of the array.</summary>
    protected const int SnapshotsMax = 3;

    /// <summary>Larger disks take none, for the memory of the copies.</summary>
    protected const int SizeMax = 16 << 20;

    /// <inheritdoc/>
    public override bool CanRun(ModelState state, ModelStep step) =>
        base.CanRun(state, step) && !state.Case.DataFile;

    /// <summary>One of the snapshots taken here, chosen by the step.</summary>
    protected static string Choose(ModelState state, ModelStep step) =>
        state.Snapshots.Keys.Order(StringComparer.Ordinal).ElementAt((int)(step.Offset % state.Snapshots.Count));

    /// <summary>
    /// Does it, unless refcounts of this width have no room for another reference. Compressed clusters are several
    /// in one host cluster, and each counts.
    /// </summary>
    protected bool TryDo(ModelState state, Action action)
    {
        try
        {
            action();
            return true;
        }
        catch (BlockException refusal) when (refusal.Kind == BlockErrorKind.TooLarge && state.Case.RefcountBits < 16)
        {
            state.Refused.Add(Name);
            return false;
        }
    }
}

/// <summary>Takes a snapshot.</summary>
public sealed class TakeSnapshotOperation : SnapshotOperation
{
    /// <inheritdoc/>
    public override string Name => "snapshot-take";

    /// <inheritdoc/>
    public override int Weight => 2;

    /// <inheritdoc/>
    public override bool CanRun(ModelState state, ModelStep step) =>
        base.CanRun(state, step) && state.Snapshots.Count < SnapshotsMax && state.Size <= SizeMax;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        string name = string.Create(CultureInfo.InvariantCulture, $"step {state.Done}");
        if (TryDo(state, () => state.Engine.CreateSnapshot(name)))
            state.Snapshots.Add(name, [.. state.Expected]);
    }
}

/// <summary>Goes back to a snapshot, its size included.</summary>
public sealed class ApplySnapshotOperation : SnapshotOperation
{
    /// <inheritdoc/>
    public override string Name => "snapshot-apply";

    /// <inheritdoc/>
    public override int Weight => 1;

    /// <inheritdoc/>
    public override bool CanRun(ModelState state, ModelStep step) =>
        base.CanRun(state, step) && state.Snapshots.Count > 0;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        string name = Choose(state, step);
        if (!TryDo(state, () => state.Engine.ApplySnapshot(name)))
            return;
        state.Expected = [.. state.Snapshots[name]];
        if (state.Device.Length != state.Size)
            throw new ModelException($"{Name}: the disk has {state.Device.Length} bytes, expected {state.Size}");
        state.Compare(0, state.Size, Name);
    }
}

/// <summary>Reads a snapshot at its own size and deletes it.</summary>
public sealed class DeleteSnapshotOperation : SnapshotOperation
{
    /// <inheritdoc/>
    public override string Name => "snapshot-delete";

    /// <inheritdoc/>
    public override int Weight => 1;

    /// <inheritdoc/>
    public override bool CanRun(ModelState state, ModelStep step) =>
        base.CanRun(state, step) && state.Snapshots.Count > 0;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        string name = Choose(state, step);
        byte[] expected = state.Snapshots[name];
        using (BlockDevice snapshot = state.Engine.OpenSnapshot(name))
        {
            byte[] held = new byte[snapshot.Length];
            snapshot.Read(0, held);
            if (!held.AsSpan().SequenceEqual(expected))
                throw new ModelException($"{Name}: {name} holds other bytes");
        }

        state.Engine.DeleteSnapshot(name);
        state.Snapshots.Remove(name);
    }
}
