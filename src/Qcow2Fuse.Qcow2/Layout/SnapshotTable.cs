// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>One entry of the snapshot table, kept byte for byte with what nobody here understands.</summary>
/// <param name="raw">The entry as the table holds it, without the padding behind it.</param>
/// <param name="currentSize">Size of the disk now, which is that of a snapshot that does not say its own.</param>
internal sealed class SnapshotEntry(byte[] raw, long currentSize)
{
    /// <summary>The entry as the table holds it, without the padding behind it.</summary>
    public byte[] Raw { get; } = raw;

    /// <summary>What it says; its strings are made anew each time, as names may be long and entries many.</summary>
    public SnapshotInfo Info => SnapshotTable.Parse(Raw, currentSize);

    /// <summary>Where its L1 table lies.</summary>
    public HostOffset L1Offset => new((long)BigEndian.U64(Raw, 0));

    /// <summary>Entries of its L1 table, those of saved machine state among them.</summary>
    public long L1Size => BigEndian.U32(Raw, 8);

    /// <summary>How many devices read it now; guarded by the image's gate.</summary>
    public int Readers { get; set; }
}

/// <summary>
/// Reads and encodes the snapshot table; specification section "Snapshots". Entries have variable length and begin at
/// multiples of 8 bytes.
/// </summary>
internal static class SnapshotTable
{
    /// <summary>Snapshots in an image at most.</summary>
    public const int SnapshotsMax = 65536;

    /// <summary>Bytes of the table at most.</summary>
    public const long BytesMax = 64L << 20;

    /// <summary>Bytes of an entry's extra data at most.</summary>
    public const int ExtraBytesMax = 1024;

    /// <summary>Bytes of a name at most, so that QEMU can show the whole of it.</summary>
    public const int NameBytesMax = 255;

    private const int FieldsBytes = 40;
    private const int NewExtraBytes = 24;

    /// <summary>Reads all entries, as a list that is wholly in memory.</summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.InvalidFormat"/> or <see cref="BlockErrorKind.TooLarge"/>.
    /// </exception>
    public static List<SnapshotEntry> Read(BlockDevice file, Qcow2Header header) => [.. Entries(file, header)];

    /// <summary>Reads one entry after the other; the table is never in memory as a whole.</summary>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.InvalidFormat"/> or <see cref="BlockErrorKind.TooLarge"/>.
    /// </exception>
    public static IEnumerable<SnapshotEntry> Entries(BlockDevice file, Qcow2Header header)
    {
        CheckFields(file, header);
        return EntriesOf(file, header, 0).Select(static placed => placed.Entry);
    }

    /// <summary>Why the table cannot be read wholly, or null.</summary>
    public static BlockException? FaultOf(BlockDevice file, Qcow2Header header)
    {
        try
        {
            _ = Measure(file, header);
            return null;
        }
        catch (BlockException fault)
        {
            return fault;
        }
    }

    private static void CheckFields(BlockDevice file, Qcow2Header header)
    {
        if (header.SnapshotFault is { } fault)
            throw BlockException.About(file.Name, fault.Kind, fault.ReasonOrMessage);
    }

    /// <summary>As <see cref="Entries"/>, from a place in the table on, where an entry begins.</summary>
    public static IEnumerable<(int Place, SnapshotEntry Entry)> Placed(BlockDevice file, Qcow2Header header, int place)
    {
        CheckFields(file, header);
        return EntriesOf(file, header, place);
    }

    /// <summary>Counts the entries and the bytes they take, after a look at each of them.</summary>
    /// <exception cref="BlockException">As <see cref="Entries"/>.</exception>
    public static (int Count, long Bytes) Measure(BlockDevice file, Qcow2Header header)
    {
        int count = 0;
        long bytes = 0;
        foreach (SnapshotEntry entry in Entries(file, header))
        {
            count++;
            bytes += Padded(entry.Raw.Length);
        }

        return (count, bytes);
    }

    /// <summary>The bytes of a table of these entries.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.TooLarge"/>.</exception>
    public static byte[] Encode(string fileName, IReadOnlyList<SnapshotEntry> entries)
    {
        long length = entries.Sum(static entry => Padded(entry.Raw.Length));
        if (entries.Count > SnapshotsMax || length > BytesMax)
            throw BlockException.About(fileName, BlockErrorKind.TooLarge,
                "no further snapshot has room in the snapshot table");
        var table = new byte[length];
        long offset = 0;
        foreach (SnapshotEntry entry in entries)
        {
            entry.Raw.CopyTo(table, offset);
            offset += Padded(entry.Raw.Length);
        }

        return table;
    }

    /// <summary>How many bytes the entries take, the padding between them included.</summary>
    public static long BytesOf(IReadOnlyList<SnapshotEntry> entries) =>
        entries.Sum(static entry => Padded(entry.Raw.Length));

    /// <summary>A new entry of a snapshot without machine state.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.TooLarge"/>: the name is too long.</exception>
    public static SnapshotEntry NewEntry(
        string fileName, string id, string name, HostOffset l1Offset, long l1Size, long diskSize, DateTimeOffset now)
    {
        byte[] idBytes = ByteText.Encode(id);
        byte[] nameBytes = ByteText.Encode(name);
        if (nameBytes.Length > NameBytesMax)
            throw BlockException.About(fileName, BlockErrorKind.TooLarge,
                $"the name of a snapshot may have {NameBytesMax} bytes, not {nameBytes.Length}");
        var raw = new byte[FieldsBytes + NewExtraBytes + idBytes.Length + nameBytes.Length];
        BigEndian.U64(raw, 0, (ulong)l1Offset.Value);
        BigEndian.U32(raw, 8, (uint)l1Size);
        raw[12] = (byte)(idBytes.Length >> 8);
        raw[13] = (byte)idBytes.Length;
        raw[14] = (byte)(nameBytes.Length >> 8);
        raw[15] = (byte)nameBytes.Length;
        BigEndian.U32(raw, 16, (uint)now.ToUnixTimeSeconds());
        BigEndian.U32(raw, 20, (uint)(now.UtcTicks % TimeSpan.TicksPerSecond * 100));
        BigEndian.U32(raw, 36, NewExtraBytes);
        BigEndian.U64(raw, FieldsBytes + 8, (ulong)diskSize);
        BigEndian.U64(raw, FieldsBytes + 16, ulong.MaxValue);
        idBytes.CopyTo(raw, FieldsBytes + NewExtraBytes);
        nameBytes.CopyTo(raw, FieldsBytes + NewExtraBytes + idBytes.Length);
        return new SnapshotEntry(raw, diskSize);
    }

    /// <summary>One above the highest number among the ids, as text.</summary>
    public static string NextId(IReadOnlyList<SnapshotEntry> entries)
    {
        ulong highest = 0;
        foreach (SnapshotEntry entry in entries)
        {
            if (ulong.TryParse(IdOf(entry.Raw), NumberStyles.None, CultureInfo.InvariantCulture, out ulong id))
                highest = Math.Max(highest, id);
        }

        return checked(highest + 1).ToString(CultureInfo.InvariantCulture);
    }

    /// <summary>
    /// The snapshot with this id, otherwise the first with this name; the same rule as qemu-img's. Null if there is
    /// neither.
    /// </summary>
    public static SnapshotEntry? Find(IEnumerable<SnapshotEntry> entries, string nameOrId)
    {
        byte[] wanted = ByteText.Encode(nameOrId);
        SnapshotEntry? named = null;
        foreach (SnapshotEntry entry in entries)
        {
            if (IdOf(entry.Raw).SequenceEqual(wanted))
                return entry;
            if (named is null && NameOf(entry.Raw).SequenceEqual(wanted))
                named = entry;
        }

        return named;
    }

    /// <summary>The id of an entry, in bytes.</summary>
    public static ReadOnlySpan<byte> IdOf(byte[] raw) =>
        raw.AsSpan(FieldsBytes + (int)BigEndian.U32(raw, 36), BigEndian.U16(raw, 12));

    /// <summary>The name of an entry, in bytes.</summary>
    public static ReadOnlySpan<byte> NameOf(byte[] raw) =>
        raw.AsSpan(FieldsBytes + (int)BigEndian.U32(raw, 36) + BigEndian.U16(raw, 12));

    private static long Padded(int bytes) => (bytes + 7) & ~7L;

    internal static SnapshotInfo Parse(byte[] raw, long currentSize)
    {
        int extraBytes = (int)BigEndian.U32(raw, 36);
        int idBytes = BigEndian.U16(raw, 12);
        ReadOnlySpan<byte> extra = raw.AsSpan(FieldsBytes, extraBytes);
        ulong instructions = extraBytes >= 24 ? BigEndian.U64(extra, 16) : ulong.MaxValue;
        return new SnapshotInfo(
            ByteText.Decode(raw.AsSpan(FieldsBytes + extraBytes, idBytes)),
            ByteText.Decode(raw.AsSpan(FieldsBytes + extraBytes + idBytes)),
            extraBytes >= 8 ? (long)BigEndian.U64(extra, 0) : BigEndian.U32(raw, 32),
            BigEndian.U32(raw, 16),
            BigEndian.U32(raw, 20),
            (long)BigEndian.U64(raw, 24),
            extraBytes >= 16 ? (long)BigEndian.U64(extra, 8) : currentSize,
            instructions == ulong.MaxValue ? null : (long)instructions);
    }

    private static IEnumerable<(int Place, SnapshotEntry Entry)> EntriesOf(
        BlockDevice file, Qcow2Header header, int place)
    {
        long start = header.SnapshotsOffset;
        var table = new TableParts(file, start, Math.Clamp(file.Length - start, 0, BytesMax));
        for (int i = 0; i < header.SnapshotCount; i++)
        {
            byte[] raw = RawAt(file, table, start, place, i);
            yield return (place, new SnapshotEntry(raw, header.Size & ~511L));
            place += (int)Padded(raw.Length);
        }
    }

    private static byte[] RawAt(BlockDevice file, TableParts table, long start, long place, int number)
    {
        ReadOnlySpan<byte> fields = table.At(place, FieldsBytes);
        if (fields.Length < FieldsBytes)
            throw Cut(file, start, place + FieldsBytes);
        uint extraBytes = BigEndian.U32(fields, 36);
        if (extraBytes > ExtraBytesMax)
            throw BlockException.About(file.Name, BlockErrorKind.TooLarge,
                $"snapshot {number} has {extraBytes} bytes of extra data, more than {ExtraBytesMax}");
        int length = FieldsBytes + (int)extraBytes + BigEndian.U16(fields, 12) + BigEndian.U16(fields, 14);
        ReadOnlySpan<byte> raw = table.At(place, length);
        return raw.Length == length ? raw.ToArray() : throw Cut(file, start, place + length);
    }

    private static BlockException Cut(BlockDevice file, long start, long end) => start > file.Length - end
        ? BlockException.About(
            file.Name, BlockErrorKind.InvalidFormat, "the snapshot table goes beyond the end of the file")
        : BlockException.About(file.Name, BlockErrorKind.TooLarge, "the snapshot table is too large");
}
