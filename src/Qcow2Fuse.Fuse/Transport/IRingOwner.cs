// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Transport;

/// <summary>Whoever takes an entry of a ring back from the thread that has served its request.</summary>
internal interface IRingOwner
{
    /// <summary>Gives an entry back with its reply; any thread.</summary>
    void Return(FuseRingEntry entry);
}
