// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>Zeroing by metadata alone, at the granularity of subclusters.</summary>
/// <remarks>
/// All methods are called with the image's gate held exactly once and may release it while a table is loaded, or while
/// they wait for an allocation under way.
/// </remarks>
internal sealed class ZeroedClusters
{
    private readonly ImageCore _image;
    private readonly Qcow2Geometry _geometry;
    private readonly ImageGate _gate;
    private readonly CheckedEntries _entries;
    private readonly ClusterLookup _lookup;
    private readonly ReplacedEntries _replaced;
    private readonly InFlightAllocations _inFlight;
    private readonly WritableTables _tables;
    private readonly KeptDiscards? _kept;

    /// <param name="image">The image.</param>
    /// <param name="entries">What entries mean.</param>
    /// <param name="lookup">The tables of the active disk.</param>
    /// <param name="replaced">Gives up what is zeroed.</param>
    /// <param name="inFlight">What is waited for.</param>
    /// <param name="tables">The tables that are changed.</param>
    /// <param name="kept">Where discards keep the place of a cluster; null where they give it up.</param>
    public ZeroedClusters(
        ImageCore image, CheckedEntries entries, ClusterLookup lookup, ReplacedEntries replaced,
        InFlightAllocations inFlight, WritableTables tables, KeptDiscards? kept)
    {
        _image = image;
        _geometry = image.Geometry;
        _gate = image.Gate;
        _entries = entries;
        _lookup = lookup;
        _replaced = replaced;
        _inFlight = inFlight;
        _tables = tables;
        _kept = kept;
    }

    /// <summary>
    /// Makes whole subclusters read as zeroes without touching data. The range begins and ends on subcluster
    /// boundaries (or at the end of the disk, rounded up).
    /// </summary>
    /// <param name="guest">Start of the range.</param>
    /// <param name="length">Its length.</param>
    /// <param name="mayUnmap">Give up host clusters that nothing needs any more.</param>
    /// <param name="isSaid">
    /// The entries say zero also behind the end of the backing file, which may be longer one day.
    /// </param>
    /// <param name="handled">
    /// Whether the returned bytes read as zeroes now. False: the entry cannot say so (version 2, or part of a
    /// compressed cluster), and the caller has to write zeroes.
    /// </param>
    /// <returns>How many bytes this answer is for, at least 1.</returns>
    public long Zero(GuestOffset guest, long length, bool mayUnmap, bool isSaid, out bool handled)
    {
        _gate.AssertHeld();
        if (IsZeroUnsaid(guest, isSaid) && _lookup.TableAt(guest) == 0)
        {
            handled = true;
            return Math.Min(length, _geometry.L2Coverage - (guest.Value & (_geometry.L2Coverage - 1)));
        }

        length = Math.Min(length, _geometry.BytesToSliceEnd(guest));
        while (true)
        {
            using CachedTable slice = _tables.GetSliceForWrite(guest);
            if (_inFlight.Touches(guest, length))
            {
                _inFlight.WaitForOne();
                continue;
            }

            return ZeroIn(slice, guest, length, mayUnmap, isSaid, out handled);
        }
    }

    /// <summary>
    /// Makes the whole subcluster of <paramref name="guest"/> zero by its entry if nothing is stored for it; false,
    /// with nothing changed, where something is or the entry cannot say so. What it shows must be zero already.
    /// </summary>
    public bool TrySayZero(GuestOffset guest)
    {
        _gate.AssertHeld();
        while (_geometry.Version >= 3)
        {
            using CachedTable slice = _tables.GetSliceForWrite(guest);
            if (_inFlight.Touches(guest, 1))
            {
                _inFlight.WaitForOne();
                continue;
            }

            if (CheckedEntries.KindOf(_entries.TypeAt(slice.Bytes, guest)) != MappingKind.Unallocated)
                return false;
            GuestOffset start = new(_geometry.RoundDownToSubcluster(guest.Value));
            ZeroIn(slice, start, _geometry.SubclusterSize, mayUnmap: false, isSaid: true, out bool handled);
            return handled;
        }

        return false;
    }

    private long ZeroIn(
        CachedTable slice, GuestOffset guest, long length, bool mayUnmap, bool isSaid, out bool handled)
    {
        long done = 0;
        handled = true;
        while (done < length)
        {
            GuestOffset at = guest + done;
            long step = Math.Min(length - done, _geometry.ClusterSize - _geometry.InCluster(at));
            int index = _geometry.IndexInSlice(at);
            L2Entry old = L2Entry.Read(slice.Bytes, index, _geometry);
            _entries.TypeOf(old, 0, at);
            if (!TryZeroEntry(old, at, step, mayUnmap, isSaid, out L2Entry changed))
            {
                if (done > 0)
                    return done;
                handled = false;
                return step;
            }

            if (changed != old)
            {
                if (mayUnmap || !changed.HasHost)
                    _replaced.CheckReleasable(old, at);
                changed.Write(slice.Modify(), index, _geometry);
                if (!changed.HasHost)
                    _replaced.Release(old);
                else if (mayUnmap && KeepsPlaceOf(old))
                    _kept!.Add(at, changed.Host + _geometry.InCluster(at), step);
            }

            done += step;
        }

        return done;
    }

    /// <summary>What an entry becomes when some or all of its subclusters are zeroed; false where it cannot.</summary>
    private bool TryZeroEntry(
        L2Entry old, GuestOffset guest, long length, bool mayUnmap, bool isSaid, out L2Entry changed)
    {
        bool whole = length == _geometry.ClusterSize;
        bool empty = !old.IsCompressed && !old.HasHostIn(_geometry);
        changed = old;
        if (empty && IsZeroUnsaid(guest, isSaid) && (!_geometry.ExtendedL2 || (uint)old.Bitmap == 0))
            return true;
        if (_geometry.ExtendedL2)
            return TryZeroBitmap(old, guest, length, mayUnmap, whole, out changed);
        if (_geometry.Version < 3)
        {
            // Version 2 has no zero flag; without a backing file "unallocated" says the same.
            changed = L2Entry.Empty;
            return mayUnmap && IsZeroUnsaid(guest, isSaid);
        }

        bool keepHost = old.HasHostIn(_geometry) && (!mayUnmap || KeepsPlaceOf(old));
        changed = new L2Entry(keepHost ? old.Descriptor | L2Entry.ZeroFlag : L2Entry.ZeroFlag, 0);
        return true;
    }

    private bool TryZeroBitmap(
        L2Entry old, GuestOffset guest, long length, bool mayUnmap, bool whole, out L2Entry changed)
    {
        changed = old;
        if (whole)
        {
            bool keepHost = old.HasHostIn(_geometry) && (!mayUnmap || KeepsPlaceOf(old));
            changed = new L2Entry(keepHost ? old.Descriptor : 0, L2Entry.AllZero);
            return true;
        }

        if (old.IsCompressed)
            return false;
        int first = _geometry.SubclusterIndex(guest);
        int end = (int)(first + (length >> _geometry.SubclusterBits));
        ulong bitmap = (old.Bitmap | L2Entry.ZeroBits(first, end)) & ~L2Entry.AllocatedBits(first, end);
        bool stillNeeded = !mayUnmap || KeepsPlaceOf(old) || (uint)bitmap != 0;
        changed = new L2Entry(stillNeeded ? old.Descriptor : 0, bitmap);
        return true;
    }

    /// <summary>
    /// Whether a discard leaves a cluster where it is. One that a snapshot refers to is not the disk's to keep, as the
    /// next write could not go there, and not to be given back to the host either.
    /// </summary>
    private bool KeepsPlaceOf(L2Entry entry) => _kept is not null && entry.IsCopied;

    /// <summary>
    /// Whether a cluster for which nothing is stored is zero for good: no backing file reaches it, and where the guest
    /// has asked for zeroes (<paramref name="isSaid"/>) there is none that could grow up to it.
    /// </summary>
    private bool IsZeroUnsaid(GuestOffset guest, bool isSaid) =>
        _image.Backing is not { } backing || (!isSaid && guest.Value >= backing.Length);
}
