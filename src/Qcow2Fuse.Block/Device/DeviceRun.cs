// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Device;

/// <summary>What a run of a device is, whatever place its bytes have.</summary>
public enum RunKind
{
    /// <summary>Stored by the device, plain or compressed.</summary>
    Stored,

    /// <summary>Reads as zeroes, whatever lies below.</summary>
    Zero,

    /// <summary>Not stored by the device: what lies below answers, or zeroes.</summary>
    Unallocated,

    /// <summary>Some of it is <see cref="Zero"/> and some <see cref="Unallocated"/>.</summary>
    Unstored,
}

/// <summary>A run of a device, as <see cref="BlockDevice.GetRun"/> reports it.</summary>
/// <param name="Length">Its length in bytes, at least 1.</param>
/// <param name="Kind">What it is.</param>
public readonly record struct DeviceRun(long Length, RunKind Kind)
{
    /// <summary>The run that an extent is.</summary>
    public static DeviceRun Of(in Extent extent) => new(extent.Length, extent.Kind switch
    {
        ExtentKind.Zero => RunKind.Zero,
        ExtentKind.Unallocated => RunKind.Unallocated,
        _ => RunKind.Stored,
    });
}
