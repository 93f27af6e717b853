// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Chain;

/// <summary>
/// How images of one format are opened, beyond what holds for all formats: a record of the format's own. Nothing
/// between the user and the format looks into it.
/// </summary>
public abstract record FormatOptions;
