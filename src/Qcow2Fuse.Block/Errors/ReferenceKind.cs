// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Errors;

/// <summary>What an image names another file for.</summary>
public enum ReferenceKind
{
    /// <summary>Read where the image stores nothing.</summary>
    Backing,

    /// <summary>Holds the guest's data, and is written.</summary>
    DataFile,
}
