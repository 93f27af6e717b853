// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Images.Reports;

namespace Qcow2Fuse.Images.Verbs;

/// <summary>What <c>snapshot</c> is to change: one of the three.</summary>
/// <param name="Create">Name of a snapshot to take.</param>
/// <param name="Apply">Name or id of the one that the disk goes back to.</param>
/// <param name="Delete">Name or id of one to delete.</param>
public sealed record SnapshotChange(string? Create = null, string? Apply = null, string? Delete = null);

/// <summary><c>snapshot</c>: lists, takes, applies and deletes internal snapshots.</summary>
public static class SnapshotVerb
{
    /// <summary>Hands the snapshots of an image file on while the file is open.</summary>
    /// <exception cref="BlockException">The file cannot be read, or cannot have any.</exception>
    public static void List(string path, bool forceShare, Action<IReadOnlyCollection<SnapshotInfo>> use)
    {
        using BlockDevice file = ImageFile.Open(path, ImageFile.ToLook(forceShare));
        use(ImageFormats.WithSnapshots.ReadSnapshots(file));
    }

    /// <summary>The same of an image that is in use. Guest writes wait until it is done.</summary>
    /// <exception cref="BlockException">The table is invalid, or there can be none.</exception>
    public static T ListOf<T>(BlockDevice device, string name, Func<IReadOnlyCollection<SnapshotInfo>, T> use) =>
        device is IStillFile still and ISnapshots
            ? still.WhileStill(file => use(ImageFormats.WithSnapshots.ReadSnapshots(file)))
            : throw KnownFormat.NoSnapshots(name);

    /// <summary>Changes the snapshots of an image file that nobody else has open.</summary>
    /// <exception cref="BlockException">It cannot be opened or changed.</exception>
    public static void Run(string path, SnapshotChange change, ImageSecrets? secrets)
    {
        BlockDevice file = ImageFile.Open(path, ImageFileUse.Change);
        BlockDevice device;
        try
        {
            device = ImageFormats.WithSnapshots.OpenForSnapshots(file, secrets);
        }
        catch
        {
            file.Dispose();
            throw;
        }

        using (device)
            Apply(device, device.Name, change);
    }

    /// <summary>Changes the snapshots of an open image. Durable on return.</summary>
    /// <param name="device">The image.</param>
    /// <param name="name">Its name in messages.</param>
    /// <param name="change">What to do.</param>
    /// <exception cref="BlockException">It cannot have any, or the change fails.</exception>
    public static void Apply(BlockDevice device, string name, SnapshotChange change)
    {
        if (device is not ISnapshots snapshots)
            throw KnownFormat.NoSnapshots(name);
        if (change.Create is { } created)
            _ = snapshots.CreateSnapshot(created);
        if (change.Apply is { } applied)
            snapshots.ApplySnapshot(applied);
        if (change.Delete is { } deleted)
            snapshots.DeleteSnapshot(deleted);
    }

    /// <summary>Prints a list of snapshots.</summary>
    public static void Write(IReadOnlyCollection<SnapshotInfo> snapshots, bool asJson, TextWriter text)
    {
        if (asJson)
        {
            ImageReportJson.WriteSnapshots(snapshots, text);
            text.WriteLine();
        }
        else if (snapshots.Count > 0)
        {
            foreach (string line in ImageReportText.SnapshotLines(snapshots))
                text.WriteLine(line);
        }
    }
}
