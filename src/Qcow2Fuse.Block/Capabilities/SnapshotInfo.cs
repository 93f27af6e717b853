// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Capabilities;

/// <summary>An internal snapshot as the snapshot table describes it.</summary>
/// <param name="Id">Unique number, as text.</param>
/// <param name="Name">What the user called it.</param>
/// <param name="VmStateSize">Bytes of saved machine state, 0 for a disk-only snapshot.</param>
/// <param name="DateSeconds">When it was taken, seconds since 1970.</param>
/// <param name="DateNanoseconds">The rest, 0 to 999,999,999.</param>
/// <param name="VmClockNanoseconds">How long the machine had run.</param>
/// <param name="DiskSize">Size of the disk then, in bytes.</param>
/// <param name="InstructionCount">Instructions executed, or null where none were counted.</param>
public sealed record SnapshotInfo(
    string Id, string Name, long VmStateSize, long DateSeconds, long DateNanoseconds, long VmClockNanoseconds,
    long DiskSize, long? InstructionCount);

/// <summary>A snapshot and its place in the snapshot table.</summary>
/// <param name="Place">Bytes from the beginning of the table.</param>
/// <param name="Snapshot">The snapshot.</param>
public readonly record struct SnapshotRecord(int Place, SnapshotInfo Snapshot);
