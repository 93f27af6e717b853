// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>A byte offset in the virtual disk. Never a place in the image file.</summary>
/// <param name="Value">Bytes from the start of the disk.</param>
public readonly record struct GuestOffset(long Value)
{
    /// <summary>So many bytes further.</summary>
    public static GuestOffset operator +(GuestOffset offset, long bytes) => new(offset.Value + bytes);

    /// <summary>The distance in bytes.</summary>
    public static long operator -(GuestOffset left, GuestOffset right) => left.Value - right.Value;
}

/// <summary>A byte offset in the image file or the external data file. Never a place in the virtual disk.</summary>
/// <param name="Value">Bytes from the start of the file.</param>
public readonly record struct HostOffset(long Value)
{
    /// <summary>So many bytes further.</summary>
    public static HostOffset operator +(HostOffset offset, long bytes) => new(offset.Value + bytes);
}
