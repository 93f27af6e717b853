// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Capabilities;

/// <summary>An open image that keeps snapshots of its disk inside.</summary>
public interface ISnapshots
{
    /// <summary>Counts the changes of the snapshots since the image was opened.</summary>
    long SnapshotVersion { get; }

    /// <summary>The snapshots in the order of their table.</summary>
    /// <exception cref="BlockException">The snapshot table is invalid.</exception>
    IReadOnlyList<SnapshotInfo> Snapshots { get; }

    /// <summary>
    /// Goes through the snapshots in the order of their table, which is read by parts, from a place in it on, until the
    /// visitor returns false. Changes of the snapshots meanwhile are not seen.
    /// </summary>
    /// <param name="place">0, or a place that a record of the same version had.</param>
    /// <param name="visit">Gets one after the other.</param>
    /// <returns>The version that was read.</returns>
    /// <exception cref="BlockException">The snapshot table is invalid.</exception>
    long VisitSnapshots(int place, Func<SnapshotRecord, bool> visit);

    /// <summary>
    /// Takes a snapshot of the disk as it is at one moment, while guests read and write. Durable on return.
    /// </summary>
    /// <param name="name">Other snapshots may have the same name.</param>
    /// <exception cref="BlockException">There is no room for it; the image is as it was.</exception>
    SnapshotInfo CreateSnapshot(string name);

    /// <summary>
    /// Makes the disk what it was when a snapshot was taken, its size included. Nobody should be writing meanwhile.
    /// </summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException">There is no such snapshot, or the storage fails.</exception>
    void ApplySnapshot(string nameOrId);

    /// <summary>Removes a snapshot and frees what only it used.</summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException">There is no such snapshot, it is open, or the storage fails.</exception>
    void DeleteSnapshot(string nameOrId);

    /// <summary>
    /// The disk as it was when a snapshot was taken, read-only and at its own size. The caller disposes it before the
    /// image.
    /// </summary>
    /// <param name="nameOrId">The id, or the name, of which the first one counts.</param>
    /// <exception cref="BlockException">There is no such snapshot, or its tables are invalid.</exception>
    BlockDevice OpenSnapshot(string nameOrId);
}
