// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Partitions;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>The partition table of the disk, also while the image is closed.</summary>
internal sealed partial class HostedImage
{
    /// <summary>After so long a look that failed is tried again: its reason may have been another file.</summary>
    private static readonly TimeSpan FailurePeriod = TimeSpan.FromSeconds(30);

    private PartitionTable _table = PartitionTable.Empty;
    private FileStamp _tableStamp;
    private ImageLook? _look;
    private bool _hasFailed;
    private long _failedAt;
    private int _tableIsStale = 1;

    /// <summary>
    /// The partitions as they are now. A closed image is looked at without locks, and closed again; where that takes
    /// longer than the caller has patience, they are those that were there before.
    /// </summary>
    /// <exception cref="BlockException">The disk cannot be read.</exception>
    public PartitionTable ReadTable(LookPatience? patience = null)
    {
        if (AcquireOpen() is not { } device)
            return LookAtTable(patience ?? new LookPatience());
        try
        {
            lock (_stateLock)
            {
                // Marked fresh before it is read: a write meanwhile marks it stale again.
                if (Interlocked.Exchange(ref _tableIsStale, 0) != 0)
                    Volatile.Write(ref _table, ReadTable(device));
                return _table;
            }
        }
        finally
        {
            Release();
        }
    }

    private PartitionTable LookAtTable(LookPatience patience)
    {
        if (KnownTable(begins: false, out ImageLook? look) is { } known)
            return known;
        if (look is null)
        {
            if (!ImageLook.TryTakePlace(patience))
                return Volatile.Read(ref _table);
            if (KnownTable(begins: true, out look) is { } now)
                return now;
        }

        try
        {
            return look!.Wait(patience) ? look.Result! : Volatile.Read(ref _table);
        }
        finally
        {
            lock (_stateLock)
                Settle();
        }
    }

    /// <summary>
    /// Keeps of a look that has ended what it came to: no table where it failed, so that the next listing does not try
    /// again in vain. With the state's lock held.
    /// </summary>
    private void Settle()
    {
        if (_look is not { } look || (look.Result is null && !look.HasFailed))
            return;
        Volatile.Write(ref _table, look.Result ?? PartitionTable.Empty);
        _tableStamp = look.Stamp;
        _hasFailed = look.HasFailed;
        _failedAt = Environment.TickCount64;
        _look = null;
    }

    /// <summary>The table of the file as it is now; or null and who is looking for it.</summary>
    /// <param name="begins">Begin to look if nobody does, in a place that was taken; it is returned otherwise.</param>
    /// <param name="look">Who is looking.</param>
    private PartitionTable? KnownTable(bool begins, out ImageLook? look)
    {
        lock (_stateLock)
        {
            Settle();
            FileStamp stamp = FileStamp.Of(_place);
            bool isKnown = stamp == _tableStamp
                && (!_hasFailed || Environment.TickCount64 - _failedAt < (long)FailurePeriod.TotalMilliseconds);
            if (begins && !isKnown && _look is null)
                _look = ImageLook.Begin(() => ServedImage.OpenToLook(_settings, Path, _files!), stamp);
            else if (begins)
                ImageLook.ReturnPlace();
            look = _look;
            return isKnown ? _table : null;
        }
    }

    private PartitionTable ReadTable(BlockDevice device)
    {
        try
        {
            return PartitionTable.Read(device);
        }
        catch (BlockException)
        {
            Volatile.Write(ref _tableIsStale, 1);
            throw;
        }
    }
}
