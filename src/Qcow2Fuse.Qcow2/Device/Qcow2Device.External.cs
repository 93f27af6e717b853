// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Guest data in an external data file.</summary>
public sealed partial class Qcow2Device
{
    /// <summary>Whether the data file alone is to be the guest's disk (autoclear bit 1).</summary>
    private bool IsRawExternal => (_header.Current.Autoclear & FeatureBits.RawExternalData) != 0;

    /// <summary>
    /// Zeroes a range of an image with an external data file. Every cluster has its own place there for ever, so
    /// mapped ones are zeroed in place: it changes no metadata, gives the space back to the host, and a raw data file
    /// (autoclear bit 1) stays what the guest sees. There the others are zeroed in place too, as their tables mean
    /// nothing to who reads the data file alone. Only what a backing file shows through, or could if it grew, becomes
    /// zero by metadata.
    /// </summary>
    private void ZeroExternal(long offset, long length, bool mayUnmap)
    {
        long end = offset + length;
        for (long at = offset; at < end;)
        {
            ReadMapping mapping;
            long epoch;
            using (_gate.Enter())
            {
                _caches.ThrowIfFailed();
                mapping = _map.LookupForZero(new GuestOffset(at), end - at);
                epoch = _caches.Epochs.Enter();
            }

            try
            {
                if (mapping.Kind == MappingKind.Data && _guestData.IsEncrypted)
                    WriteZeroBytes(new GuestOffset(at), mapping.Host, mapping.Length);
                else if (mapping.Kind == MappingKind.Data)
                    _data.WriteZeroes(at, mapping.Length, mayUnmap);
                else if (IsRawExternal && at < _data.Length)
                    _data.WriteZeroes(at, Math.Min(mapping.Length, _data.Length - at), mayUnmap);
            }
            finally
            {
                _caches.Epochs.Exit(epoch);
            }

            if (mapping.Kind == MappingKind.Unallocated && IsZeroToBeSaid(at))
                ZeroUnallocated(at, mapping.Length);
            at += mapping.Length;
        }
    }

    /// <summary>Whether a cluster that is not mapped shows, or could show one day, what a backing file holds.</summary>
    private bool IsZeroToBeSaid(long offset) =>
        Backing is not null && (IsSaid(offset) || offset < Backing.Length);

    /// <summary>What the data file knows of holes in a mapped range.</summary>
    private Extent ExternalExtent(long offset, long length)
    {
        if (offset >= _data.Length)
            return new Extent(offset, length, ExtentKind.Zero, -1, Depth: 0);
        length = Math.Min(length, _data.Length - offset);
        Extent extent = _data.GetExtent(offset, length);
        return extent.Kind == ExtentKind.Data
            ? new Extent(offset, extent.Length, ExtentKind.Data, offset, Depth: 0)
            : new Extent(offset, extent.Length, ExtentKind.Zero, -1, Depth: 0);
    }

    /// <summary>Whole subclusters by metadata, the edges by writing.</summary>
    private void ZeroUnallocated(long offset, long length)
    {
        long end = offset + length;
        long wholeStart = _geometry.RoundUpToSubcluster(offset);
        long wholeEnd = EndOfWholeSubclusters(end);
        if (wholeStart >= wholeEnd)
        {
            ZeroByWriting(offset, length);
            return;
        }

        ZeroByWriting(offset, wholeStart - offset);
        for (long at = wholeStart; at < wholeEnd;)
        {
            using (_gate.Enter())
            {
                at += _map.Zero(new GuestOffset(at), wholeEnd - at, mayUnmap: false, IsSaid(at), out _);
                NoteChange();
            }
        }

        ZeroByWriting(wholeEnd, Math.Max(0, end - wholeEnd));
    }
}
