// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing.Model.Operations;

/// <summary>Flushes.</summary>
public sealed class FlushOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "flush";

    /// <inheritdoc/>
    public override int Weight => 6;

    /// <inheritdoc/>

    /// <inheritdoc/>
    public override (long Offset, long Length) Draw(ModelDraw draw) => (0, 0);

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step) => state.Device.Flush();
}

/// <summary>Closes the image, has the file checked, opens it again, and compares all of it.</summary>
public sealed class ReopenOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "reopen";

    /// <inheritdoc/>
    public override int Weight => 1;

    /// <inheritdoc/>

    /// <inheritdoc/>
    public override (long Offset, long Length) Draw(ModelDraw draw) => (0, 0);

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step) => state.Reopen();
}

/// <summary>Gives the disk the size in the step's length, which is not smaller; what is new is zero.</summary>
public sealed class GrowOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "grow";

    /// <inheritdoc/>
    public override int Weight => 1;

    /// <inheritdoc/>
    public override (long Offset, long Length) Draw(ModelDraw draw)
    {
        long most = draw.FirstSize + (draw.FirstSize / 2);
        draw.Size = Math.Max(draw.Size, (draw.Size + draw.Random.Below(1 + most - Math.Min(draw.Size, most))) & -512L);
        return (0, draw.Size);
    }

    /// <inheritdoc/>
    public override bool CanRun(ModelState state, ModelStep step) =>
        base.CanRun(state, step) && step.Length >= state.Size;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step) => state.Resize(step.Length, Name);
}

/// <summary>Gives the disk the smaller size in the step's length.</summary>
public sealed class ShrinkOperation : ModelOperation
{
    /// <inheritdoc/>
    public override string Name => "shrink";

    /// <inheritdoc/>
    public override int Weight => 1;

    /// <inheritdoc/>
    public override (long Offset, long Length) Draw(ModelDraw draw)
    {
        draw.Size = Math.Max(512, (draw.Size - draw.Random.Below(draw.Size / 2)) & -512L);
        return (0, draw.Size);
    }

    /// <inheritdoc/>
    public override bool CanRun(ModelState state, ModelStep step) =>
        base.CanRun(state, step) && step.Length < state.Size;

    /// <inheritdoc/>
    public override void Run(ModelState state, ModelStep step) => state.Resize(step.Length, Name);
}
