// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing.Faults;

namespace Qcow2Fuse.Testing.Crash;

/// <content>Changes of the image as a whole.</content>
public sealed partial class CrashRun
{
    private const int ChangePercent = 14;

    private long SizeMax => Has(CrashFeatures.Resizes) ? _kind.Size * 3 / 2 / 512 * 512 : _kind.Size;

    private int LiveSectors => (int)(_images.Size / SectorTable.SectorSize);

    /// <summary>
    /// A refcount of one or two bits counts up to 1 or 3, so that snapshots may be refused; several compressed clusters
    /// refer to one host cluster.
    /// </summary>
    private bool MayRefuse => _kind.RefcountOrder <= (Has(CrashFeatures.Compress) ? 3 : 1);

    private bool Has(CrashFeatures feature) => (Features & feature) != CrashFeatures.None;

    private GuestOp? MakeChange()
    {
        bool resizes = Has(CrashFeatures.Resizes), snapshots = Has(CrashFeatures.Snapshots);
        if ((!resizes && !snapshots) || _options.Fault is not null || !_random.Chance(ChangePercent))
            return null;

        // In version 2 a snapshot does not hold the size of its disk.
        bool mayResize = resizes && (_kind.Version == 3 || _images.Snapshots.Count == 0);
        if (!mayResize && !snapshots)
            return null;
        return _workload.Change(mayResize ? SizeMax : 0, snapshots, _images.Snapshots.Count);
    }

    private void DoChange(GuestOp op)
    {
        try
        {
            switch (op.Kind)
            {
                case GuestOpKind.Resize:
                    _device.Resize(op.Offset);
                    break;
                case GuestOpKind.SnapshotCreate:
                    ((Qcow2Device)_device).CreateSnapshot($"s{op.Number}");
                    break;
                case GuestOpKind.SnapshotApply:
                    ((Qcow2Device)_device).ApplySnapshot(_images.Snapshots[(int)op.Offset].Name);
                    break;
                case GuestOpKind.SnapshotDelete:
                    ((Qcow2Device)_device).DeleteSnapshot(_images.Snapshots[(int)op.Offset].Name);
                    break;
                default:
                    throw new InvalidOperationException(op.Kind.ToString());
            }
        }
        catch (BlockException refused) when (MayRefuse && refused.Kind == BlockErrorKind.TooLarge
            && op.Kind is GuestOpKind.SnapshotCreate or GuestOpKind.SnapshotApply)
        {
            op.HasFailed = true;
        }
    }

    /// <summary>What is wrong with the live disk after a change, or null.</summary>
    private string? AddChange(GuestOp op)
    {
        // A disk that has the size already is left alone, and nothing is made durable.
        if (op.HasFailed || (op.Kind == GuestOpKind.Resize && op.Offset == _images.Size))
            return CheckLive(_device, _history.Current);
        long size = _images.Size;
        IReadOnlyList<KnownSnapshot> snapshots = _images.Snapshots;
        int[] contents = _history.Current.ToArray();
        switch (op.Kind)
        {
            case GuestOpKind.Resize:
                contents.AsSpan((int)(Math.Min(size, op.Offset) / SectorTable.SectorSize)).Clear();
                size = op.Offset;
                break;
            case GuestOpKind.SnapshotCreate:
                snapshots = [.. snapshots, new KnownSnapshot($"s{op.Number}", size, contents[..LiveSectors])];
                break;
            case GuestOpKind.SnapshotApply:
                size = snapshots[(int)op.Offset].Size;
                Array.Clear(contents);
                snapshots[(int)op.Offset].Ids.CopyTo(contents, 0);
                break;
            default:
                snapshots = [.. snapshots.Where((_, index) => index != op.Offset)];
                break;
        }

        _images.Change(op.Begin, op.End, size, snapshots);
        _workload.Size = size;
        return _history.AddWhole(op, contents, LiveSectors, ReadSector)
            ?? CheckLive(_device, _history.Current);
    }
}
