// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Partitions;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>The partition table of the disk in an image, also while the image is closed.</summary>
/// <param name="stampOf">Tells which state the image's file is in.</param>
/// <param name="open">Opens the image for a look, whoever else may be writing to it.</param>
internal sealed class DiskTable(Func<FileStamp> stampOf, Func<ServedImage> open)
{
    /// <summary>After so long a look that failed is tried again: its reason may have been another file.</summary>
    private static readonly TimeSpan FailurePeriod = TimeSpan.FromSeconds(30);

    private readonly Lock _lock = new();
    private PartitionTable _table = PartitionTable.Empty;
    private FileStamp _stamp;
    private ImageLook? _look;
    private bool _hasFailed;
    private long _failedAt;
    private int _isStale = 1;

    /// <summary>The table has to be read again.</summary>
    public void MarkStale() => Volatile.Write(ref _isStale, 1);

    /// <summary>A range of the disk was changed, in which the table may lie.</summary>
    public void NoteChange(long start, long length)
    {
        if (Volatile.Read(ref _table).LiesIn(start, length))
            MarkStale();
    }

    /// <summary>The partitions of the open disk as they are now.</summary>
    /// <exception cref="BlockException">The disk cannot be read.</exception>
    public PartitionTable ReadOpen(BlockDevice device)
    {
        lock (_lock)
        {
            // Marked fresh before it is read: a write meanwhile marks it stale again.
            if (Interlocked.Exchange(ref _isStale, 0) != 0)
                Volatile.Write(ref _table, Read(device));
            return _table;
        }
    }

    /// <summary>
    /// The partitions of the closed image, which is looked at without locks, and closed again; where that takes longer
    /// than the caller has patience, they are those that were there before.
    /// </summary>
    /// <exception cref="BlockException">The disk cannot be read.</exception>
    public PartitionTable Look(LookPatience patience)
    {
        if (Known(begins: false, out ImageLook? look) is { } known)
            return known;
        if (look is null)
        {
            if (!ImageLook.TryTakePlace(patience))
                return Volatile.Read(ref _table);
            if (Known(begins: true, out look) is { } now)
                return now;
        }

        try
        {
            return look!.Wait(patience) ? look.Result! : Volatile.Read(ref _table);
        }
        finally
        {
            lock (_lock)
                Settle();
        }
    }

    /// <summary>
    /// Keeps of a look that has ended what it came to: no table where it failed, so that the next listing does not try
    /// again in vain. With the lock held.
    /// </summary>
    private void Settle()
    {
        if (_look is not { } look || (look.Result is null && !look.HasFailed))
            return;
        Volatile.Write(ref _table, look.Result ?? PartitionTable.Empty);
        _stamp = look.Stamp;
        _hasFailed = look.HasFailed;
        _failedAt = Environment.TickCount64;
        _look = null;
    }

    /// <summary>The table of the file as it is now; or null and who is looking for it.</summary>
    /// <param name="begins">Begin to look if nobody does, in a place that was taken; it is returned otherwise.</param>
    /// <param name="look">Who is looking.</param>
    private PartitionTable? Known(bool begins, out ImageLook? look)
    {
        lock (_lock)
        {
            Settle();
            FileStamp stamp = stampOf();
            bool isKnown = stamp == _stamp
                && (!_hasFailed || Environment.TickCount64 - _failedAt < (long)FailurePeriod.TotalMilliseconds);
            if (begins && !isKnown && _look is null)
                _look = ImageLook.Begin(open, stamp);
            else if (begins)
                ImageLook.ReturnPlace();
            look = _look;
            return isKnown ? _table : null;
        }
    }

    private PartitionTable Read(BlockDevice device)
    {
        try
        {
            return PartitionTable.Read(device);
        }
        catch (BlockException)
        {
            MarkStale();
            throw;
        }
    }
}
