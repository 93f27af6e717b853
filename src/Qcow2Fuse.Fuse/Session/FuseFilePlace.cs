// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Session;

/// <summary>A place in an open file.</summary>
/// <param name="Node">Number of the file.</param>
/// <param name="Handle">What the file was opened with.</param>
/// <param name="Offset">Bytes from its start.</param>
public readonly record struct FuseFilePlace(ulong Node, ulong Handle, long Offset);
