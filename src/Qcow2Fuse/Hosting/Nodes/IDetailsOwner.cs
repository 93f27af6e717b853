// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>An image whose hidden directory has nodes, of which a mount has a bounded number.</summary>
internal interface IDetailsOwner
{
    /// <summary>Takes the nodes of the details away: they are made anew when somebody looks for them.</summary>
    void DropDetails();
}
