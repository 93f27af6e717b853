// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing.Crash;

/// <summary>Makes up what a guest does: mostly on a few hot clusters, aligned and not.</summary>
public sealed class CrashWorkload
{
    private readonly SeededRandom _random;
    private readonly ImageKind _kind;
    private readonly long[] _hot;
    private int _number;

    /// <summary>Bytes of the disk now.</summary>
    public long Size { get; set; }

    /// <summary>Prepares operations for a disk of this kind.</summary>
    public CrashWorkload(ImageKind kind, SeededRandom random)
    {
        _kind = kind;
        _random = random;
        Size = kind.Size;
        _hot = new long[6];
        for (int i = 0; i < _hot.Length; i++)
            _hot[i] = random.Below(kind.Size >> kind.ClusterBits) << kind.ClusterBits;
    }

    /// <summary>The next operation; a reopen only where nothing runs at the same time.</summary>
    public GuestOp Next(bool mayReopen)
    {
        int dice = _random.Below(100);
        GuestOpKind kind = dice switch
        {
            < 52 => GuestOpKind.Write,
            < 60 => GuestOpKind.ZeroKeep,
            < 69 => GuestOpKind.ZeroUnmap,
            < 83 => GuestOpKind.Discard,
            < 97 => GuestOpKind.Flush,
            _ => mayReopen ? GuestOpKind.Reopen : GuestOpKind.Write,
        };
        return Make(kind, kind is GuestOpKind.Discard ? 60 : 30);
    }

    /// <summary>A change of the size, where <paramref name="sizeMax"/> is not 0, or of the snapshots.</summary>
    public GuestOp Change(long sizeMax, bool withSnapshots, int snapshots)
    {
        const int SnapshotsMax = 3;
        if (sizeMax > 0 && (!withSnapshots || _random.Chance(40)))
            return new GuestOp(++_number, GuestOpKind.Resize, 512 * (1 + _random.Below(sizeMax / 512)), 0);
        GuestOpKind kind = snapshots == 0 || (snapshots < SnapshotsMax && _random.Chance(45))
            ? GuestOpKind.SnapshotCreate
            : _random.Chance(50) ? GuestOpKind.SnapshotApply : GuestOpKind.SnapshotDelete;
        return new GuestOp(++_number, kind, kind == GuestOpKind.SnapshotCreate ? 0 : _random.Below(snapshots), 0);
    }

    /// <summary>Writes to one cluster, or most of it.</summary>
    public GuestOp Fill(long cluster)
    {
        long start = cluster << _kind.ClusterBits;
        long length = Math.Min(_kind.ClusterSize, _kind.Size - start);
        if (_random.Chance(30) && length > 512)
            length = 512 * (1 + _random.Below(length / 512));
        return new GuestOp(++_number, GuestOpKind.Write, start, (int)length);
    }

    private GuestOp Make(GuestOpKind kind, int alignedPercent)
    {
        if (kind is GuestOpKind.Flush or GuestOpKind.Reopen)
            return new GuestOp(++_number, kind, 0, 0);

        int cluster = _kind.ClusterSize, sub = _kind.SubclusterSize;
        long near = _random.Chance(_kind.IsScattered ? 10 : 75)
            ? _random.Pick(_hot)
            : _random.Below((Size + cluster - 1) >> _kind.ClusterBits) << _kind.ClusterBits;
        long offset, length;
        if (_random.Chance(alignedPercent))
        {
            bool whole = _random.Chance(_kind.ClusterBits > 16 ? 30 : 60);
            offset = whole ? near : near + (_random.Below(cluster / sub) * (long)sub);
            length = (whole ? cluster : sub) * (1L + _random.Below(whole && _kind.ClusterBits < 20 ? 3 : 2));
        }
        else if (_random.Chance(60))
        {
            offset = near + (_random.Below(cluster / 512) * 512L);
            length = 512L * (1 + _random.Below(Math.Min(cluster * 2 / 512, 128)));
        }
        else
        {
            offset = near + _random.Below(cluster);
            length = 1 + _random.Below(_random.Pick(100, 1500, Math.Min(2 * cluster, 70_000)));
        }

        offset = Math.Min(offset, Size - 1);
        return new GuestOp(++_number, kind, offset, (int)Math.Min(length, Size - offset));
    }
}
