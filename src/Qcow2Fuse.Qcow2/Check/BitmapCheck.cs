// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>Checks persistent bitmaps, and counts what they name; specification section "Bitmaps".</summary>
internal sealed class BitmapCheck(CheckedImage image, CheckFindings findings)
{
    private const int BitmapFieldsBytes = 24;
    private const int BitmapsMax = 65535;
    private const ulong DirectoryBytesMax = 1024L * BitmapsMax;
    private const uint BitmapFlagsReserved = 0xffff_fff8;
    private const ulong BitmapEntryReserved = 0xff00_0000_0000_01fe;
    private const ulong BitmapAllOnes = 1;
    private const int BitmapNameMax = 1023;
    private const long AllBitmapEntriesMax = 64L << 20;

    private long _bitmapEntries;

    /// <summary>
    /// Counts what the bitmaps extension names. Where the autoclear bit says that it is not to be believed, nobody
    /// uses its clusters, and they are leaks.
    /// </summary>
    public void Run()
    {
        if ((image.Header.Autoclear & FeatureBits.Bitmaps) == 0)
            return;
        HeaderExtension? extension = image.Header.Extensions.FirstOrDefault(e => e.Type == HeaderExtension.Bitmaps);
        if (extension is null)
        {
            if (findings.Noted(FindingKind.InvalidEntry))
                findings.Note(0, "the header says that there are bitmaps, but does not say where");
            return;
        }

        ReadOnlySpan<byte> content = extension.Content.Span;
        uint count = BigEndian.U32(content, 0);
        ulong length = BigEndian.U64(content, 8);
        ulong offset = BigEndian.U64(content, 16);
        if (count is 0 or > BitmapsMax || BigEndian.U32(content, 4) != 0 || length is 0 or > DirectoryBytesMax
            || offset > long.MaxValue / 2 || !image.IsAligned((long)offset))
        {
            if (findings.Noted(FindingKind.InvalidEntry))
                findings.Note(0, $"the directory of {count} bitmaps, {length} bytes at 0x{offset:x}, is impossible");
            return;
        }

        if (image.Count((long)offset, (long)length, ClusterUse.BitmapDirectory, 1))
            findings.Reading((long)offset, "bitmap directory", () => ReadDirectory((long)offset, (int)length, count));
    }

    private void ReadDirectory(long offset, int length, uint count)
    {
        TableParts directory = new(image.File, offset, length);
        int at = 0;
        uint found = 0;
        while (found < count && at + BitmapFieldsBytes <= length)
        {
            ReadOnlySpan<byte> fields = directory.At(at, BitmapFieldsBytes);
            long bytes = BitmapFieldsBytes + (long)BigEndian.U16(fields, 18) + BigEndian.U32(fields, 20);
            bytes = (bytes + 7) & ~7L;
            if (bytes > length - at)
                break;
            CountBitmap(fields, offset + at);
            at += (int)bytes;
            found++;
        }

        if ((found != count || at != length) && findings.Noted(FindingKind.InvalidEntry))
            findings.Note(offset, $"the bitmap directory at 0x{offset:x} holds {found} bitmaps in {at} bytes, "
                + $"not {count} in {length}");
    }

    private void CountBitmap(ReadOnlySpan<byte> fields, long place)
    {
        ulong table = BigEndian.U64(fields, 0);
        uint entries = BigEndian.U32(fields, 8);
        if ((BigEndian.U32(fields, 12) & BitmapFlagsReserved) != 0 || fields[16] != 1 || fields[17] is < 9 or > 31
            || BigEndian.U16(fields, 18) is 0 or > BitmapNameMax || table is 0 or > long.MaxValue / 2
            || !image.IsAligned((long)table) || entries == 0)
        {
            if (findings.Noted(FindingKind.InvalidEntry))
                findings.Note(place, $"bitmap at 0x{place:x} is impossible");
            return;
        }

        _bitmapEntries += entries;
        if (_bitmapEntries > AllBitmapEntriesMax)
            throw new BlockException(
                BlockErrorKind.TooLarge, $"{image.File.Name}: the tables of its bitmaps are too large to be checked");
        if (image.Count((long)table, entries * 8L, ClusterUse.BitmapTable, 1))
            findings.Reading((long)table, "bitmap table", () => CountBitmapTable((long)table, entries));
    }

    private void CountBitmapTable(long table, uint entries) => image.Reader.Visit(table, entries * 8L, (at, piece) =>
    {
        int words = piece.Length / 8;
        for (int i = MetadataReader.NextNonZero(piece, 0); i < words; i = MetadataReader.NextNonZero(piece, i + 1))
        {
            ulong entry = BigEndian.U64(piece, i * 8);
            long cluster = (long)(entry & L2Entry.OffsetMask);
            if ((entry & BitmapEntryReserved) == 0 && image.IsAligned(cluster)
                && (cluster == 0 || (entry & BitmapAllOnes) == 0))
            {
                if (cluster != 0)
                    image.Count(cluster, image.ClusterSize, ClusterUse.Bitmap, 1);
            }
            else if (findings.Noted(FindingKind.InvalidEntry))
            {
                findings.Note(at + (i * 8L), $"bitmap table entry {entry:x16} at 0x{at + (i * 8L):x} is invalid");
            }
        }
    });
}
