// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Core;

/// <summary>Where the disk ends, for the guest and for what is done while it grows.</summary>
/// <remarks>Read by anybody at any time; changed by one change of the size at a time.</remarks>
internal sealed class DiskSize(long length)
{
    private long _length = length;
    private long _growsTo;

    /// <summary>The virtual size in bytes, as the guest sees it. It is changed with the gate held.</summary>
    public long Length
    {
        get => Volatile.Read(ref _length);
        set => Volatile.Write(ref _length, value);
    }

    /// <summary>
    /// Where the disk ends for what is done here while it grows: the guest does not see the new space yet, and bitmaps
    /// do not record its zeroes.
    /// </summary>
    public long Reach => Math.Max(Length, Volatile.Read(ref _growsTo));

    /// <summary>Lets <see cref="Reach"/> have the new space before the guest does.</summary>
    public void BeginGrowing(long length) => Volatile.Write(ref _growsTo, length);

    /// <summary>The guest has the new space, or nobody has it.</summary>
    public void EndGrowing() => Volatile.Write(ref _growsTo, 0);
}
