// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>
/// A disk that lies: it acknowledges flushes and forgets all but every <paramref name="keepEvery"/>th of them. A
/// crash judge that accepts an engine on top of it judges nothing.
/// </summary>
public sealed class FlushDroppingDevice(BlockDevice child, int keepEvery) : PassThroughDevice(child)
{
    private int _flushes;

    /// <inheritdoc/>
    public override void Flush()
    {
        if (keepEvery > 0 && Interlocked.Increment(ref _flushes) % keepEvery == 0)
            Child.Flush();
    }
}
