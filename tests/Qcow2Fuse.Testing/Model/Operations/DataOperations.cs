// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Testing.Model.Operations;

/// <summary>Reads a range.</summary>
public sealed class ReadOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "read";

    /// <inheritdoc/>
    public override int Weight => 20;

    /// <inheritdoc/>

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        (long offset, int length) = state.Cut(step);
        state.Compare(offset, length, "read");
    }
}

/// <summary>Writes bytes that tell the step and the place.</summary>
public sealed class WriteOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "write";

    /// <inheritdoc/>
    public override int Weight => 40;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        (long offset, int length) = state.Cut(step);
        Span<byte> bytes = state.Expected.AsSpan((int)offset, length);
        Stamp.Fill(bytes, offset, (state.Case.Seed << 16) + (ulong)step.Number);
        state.Device.Write(offset, bytes);
    }
}

/// <summary>Writes zeroes and keeps the storage.</summary>
public sealed class ZeroOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "zero";

    /// <inheritdoc/>
    public override int Weight => 8;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        (long offset, int length) = state.Cut(step);
        state.Expected.AsSpan((int)offset, length).Clear();
        state.Device.WriteZeroes(offset, length, mayUnmap: false);
    }
}

/// <summary>Writes zeroes and lets the storage go.</summary>
public sealed class ZeroUnmapOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "unmap";

    /// <inheritdoc/>
    public override int Weight => 8;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        (long offset, int length) = state.Cut(step);
        state.Expected.AsSpan((int)offset, length).Clear();
        state.Device.WriteZeroes(offset, length, mayUnmap: true);
    }
}

/// <summary>
/// Discards. Whole subclusters read as zeroes afterwards, or as before where they cannot be unmapped as zeroes; the
/// other bytes of the range keep their value, or are zero too in a data file, which can be zeroed to the byte. What it
/// is becomes what the disk has to hold.
/// </summary>
public sealed class DiscardOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "discard";

    /// <inheritdoc/>
    public override int Weight => 8;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        (long offset, int length) = state.Cut(step);
        long end = offset + length;
        state.Device.Discard(offset, length);
        int unit = state.Subcluster;
        for (long at = offset / unit * unit; at < end; at += unit)
        {
            long unitEnd = Math.Min(at + unit, state.Size);
            bool whole = at >= offset && unitEnd <= end && state.Discard != DiscardMode.Ignore;
            bool mayBeZero = whole || (state.Case.DataFile && state.Discard != DiscardMode.Ignore);
            int from = (int)Math.Max(at, offset);
            int count = (int)(Math.Min(unitEnd, end) - from);
            if (mayBeZero && !state.Read(from, count).ContainsAnyExcept((byte)0))
                state.Expected.AsSpan(from, count).Clear();
            else if (whole && MustBeZero(state, from))
                throw new ModelException($"discard: the cluster at {from} is neither zero nor allowed to stay");
            else
                state.Compare(from, count, "discard");
        }
    }

    /// <summary>
    /// Version 2 has no way to say "zero" over a backing file, and a part of a compressed cluster cannot be zeroed.
    /// </summary>
    private static bool MustBeZero(ModelState state, long offset) =>
        state.Case.Version == 3
        && !(state.Case.ExtendedL2 && state.Engine.GetExtent(offset, 1).Kind == ExtentKind.Compressed);
}

/// <summary>What the image says about a range without reading it must be true.</summary>
public sealed class ExtentOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "extent";

    /// <inheritdoc/>
    public override int Weight => 5;

    /// <inheritdoc/>

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step)
    {
        (long offset, int length) = state.Cut(step);
        if (length == 0)
            return;
        Extent extent = state.Device.GetExtent(offset, length);
        if (extent.Offset != offset || extent.Length < 1 || extent.Length > length)
            throw new ModelException($"extent: {extent} for {offset}+{length}");
        bool isZero = extent.Kind == ExtentKind.Zero
            || (extent.Kind == ExtentKind.Unallocated && state.Case.Backing == ModelBacking.None);
        if (isZero && state.Expected.AsSpan((int)offset, (int)extent.Length).ContainsAnyExcept((byte)0))
            throw new ModelException($"extent: {extent} is not zero");
    }
}
