// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Qcow2.Tests.Pictures;

/// <summary>
/// Builds an image with pictured clusters byte by byte from the specification, without any engine: header, refcounts,
/// L1 and L2 table, data, and a snapshot where clusters are shared.
/// </summary>
internal sealed class PictureImage
{
    /// <summary>Bytes of a cluster.</summary>
    public const int ClusterSize = 16384;

    /// <summary>Bytes of a subcluster.</summary>
    public const int SubclusterSize = ClusterSize / PictureRow.Subclusters;

    /// <summary>The first pictured guest cluster. The one before it holds data and must stay as it is.</summary>
    public const int FirstCluster = 3;

    /// <summary>The guest offset of the first pictured cluster.</summary>
    public const long Guest = (long)FirstCluster * ClusterSize;

    /// <summary>Where the L2 table lies.</summary>
    public const long L2Table = 4L * ClusterSize;

    private const int RefcountBlock = 2;
    private const int FirstFree = 5;
    private const int DiskClusters = 8;
    private const ulong Copied = 1UL << 63;
    private const ulong CompressedFlag = 1UL << 62;
    private const ulong DataTag = 9;
    private const ulong BackingTag = 5;

    private readonly PictureRow _row;
    private readonly byte[] _file = new byte[24 * ClusterSize];
    private int _next = FirstFree;

    private PictureImage(PictureRow row)
    {
        _row = row;
        Size = Math.Min(DiskClusters * (long)ClusterSize, Place(row.DiskEnd));
        if (row.BackingEnd > 0)
            Backing = Stamp.Bytes(0, (int)Math.Min(Size, Place(row.BackingEnd)), BackingTag);
        Content = new byte[Size];
        Backing?.CopyTo(Content, 0);
        SnapshotContent = [.. Content];
        Build();
    }

    /// <summary>The image file.</summary>
    public byte[] File => _file[..(_next * ClusterSize)];

    /// <summary>The backing file, or null.</summary>
    public byte[]? Backing { get; }

    /// <summary>The size of the disk.</summary>
    public long Size { get; }

    /// <summary>What the disk holds.</summary>
    public byte[] Content { get; }

    /// <summary>What the snapshot holds, where there is one.</summary>
    public byte[] SnapshotContent { get; }

    /// <summary>Whether there is a snapshot.</summary>
    public bool HasSnapshot => _row.EntriesBefore.Contains(PictureEntry.Shared);

    /// <summary>Builds the image of a row.</summary>
    public static PictureImage Build(PictureRow row) => new(row);

    private static long Place(double subclusters) =>
        subclusters > 1000 ? long.MaxValue : Guest + (long)(subclusters * SubclusterSize);

    private void Build()
    {
        for (int cluster = 0; cluster < FirstFree; cluster++)
            Count(cluster, 1);
        Header();
        Write64(ClusterSize, 2UL * ClusterSize);
        Write64(3 * ClusterSize, (ulong)L2Table | Copied);
        Data(FirstCluster - 1, PictureEntry.Own, new string('N', PictureRow.Subclusters));
        for (int i = 0; i < _row.Clusters; i++)
        {
            string states = _row.Before.Substring(i * PictureRow.Subclusters, PictureRow.Subclusters);
            if (_row.EntriesBefore[i] == PictureEntry.Comp)
                Compressed(FirstCluster + i);
            else
                Data(FirstCluster + i, _row.EntriesBefore[i], states);
        }

        if (HasSnapshot)
            Snapshot();
    }

    private void Data(int guestCluster, PictureEntry entry, string states)
    {
        ulong bitmap = 0, descriptor = 0;
        long guest = (long)guestCluster * ClusterSize;
        if (entry != PictureEntry.None)
        {
            int host = _next++;
            Count(host, entry == PictureEntry.Shared ? 2 : 1);
            descriptor = (ulong)host * ClusterSize | (entry == PictureEntry.Own ? Copied : 0);

            // What lies in subclusters without data must never be seen.
            Stamp.Fill(_file.AsSpan(host * ClusterSize, ClusterSize), guest, 66);
        }

        for (int i = 0; i < PictureRow.Subclusters; i++)
        {
            long at = guest + ((long)i * SubclusterSize);
            if (states[i] == 'N')
            {
                bitmap |= 1UL << i;
                byte[] bytes = Stamp.Bytes(at, SubclusterSize, DataTag);
                bytes.CopyTo(_file, (long)(descriptor & ~Copied) + ((long)i * SubclusterSize));
                SetContent(at, bytes, entry);
            }
            else if (states[i] == '0')
            {
                bitmap |= 1UL << (32 + i);
                SetContent(at, new byte[SubclusterSize], entry);
            }
        }

        Write64(L2Table + (guestCluster * 16), descriptor);
        Write64(L2Table + (guestCluster * 16) + 8, bitmap);
    }

    private void SetContent(long guest, byte[] bytes, PictureEntry entry)
    {
        int length = (int)Math.Clamp(Size - guest, 0, bytes.Length);
        bytes.AsSpan(0, length).CopyTo(Content.AsSpan((int)Math.Min(guest, Size)));
        if (entry == PictureEntry.Shared)
            bytes.AsSpan(0, length).CopyTo(SnapshotContent.AsSpan((int)Math.Min(guest, Size)));
    }

    private void Compressed(int guestCluster)
    {
        long guest = (long)guestCluster * ClusterSize;
        byte[] bytes = Stamp.Bytes(guest, ClusterSize, DataTag);
        for (int i = 64; i < bytes.Length; i++)
            bytes[i] = i % 512 < 64 ? (byte)(bytes[i - 64] + 1) : bytes[i - 64];
        MemoryStream packed = new();
        using (DeflateStream stream = new(packed, CompressionLevel.Optimal, leaveOpen: true))
            stream.Write(bytes);
        int host = _next++;
        Count(host, 1);
        packed.ToArray().CopyTo(_file, (long)host * ClusterSize);
        ulong sectors = ((ulong)packed.Length + 511) / 512;
        Write64(L2Table + (guestCluster * 16), CompressedFlag | ((sectors - 1) << 56) | ((ulong)host * ClusterSize));
        SetContent(guest, bytes, PictureEntry.Comp);
    }

    /// <summary>A snapshot with tables of its own, which refer to the shared clusters and to nothing else.</summary>
    private void Snapshot()
    {
        long table = (long)_next * ClusterSize, l1 = table + ClusterSize, l2 = l1 + ClusterSize;
        for (int i = 0; i < 3; i++)
            Count(_next++, 1);
        Write64(table, (ulong)l1);
        Write32(table + 8, 1);
        BinaryPrimitives.WriteUInt16BigEndian(_file.AsSpan((int)table + 12), 1);
        BinaryPrimitives.WriteUInt16BigEndian(_file.AsSpan((int)table + 14), 1);
        Write32(table + 36, 16);
        Write64(table + 48, (ulong)Size);
        "1s"u8.CopyTo(_file.AsSpan((int)table + 56));
        Write64(l1, (ulong)l2);
        for (int i = 0; i < _row.Clusters; i++)
        {
            int entry = (FirstCluster + i) * 16;
            if (_row.EntriesBefore[i] == PictureEntry.Shared)
                _file.AsSpan((int)L2Table + entry, 16).CopyTo(_file.AsSpan((int)l2 + entry));
        }

        Write32(60, 1);
        Write64(64, (ulong)table);
    }

    private void Header()
    {
        Write32(0, 0x514649FB);
        Write32(4, 3);
        Write32(20, 14);
        Write64(24, (ulong)Size);
        Write32(36, 1);
        Write64(40, 3 * ClusterSize);
        Write64(48, ClusterSize);
        Write32(56, 1);
        Write64(72, 1UL << 4);
        Write32(96, 4);
        Write32(100, 112);
        if (Backing is null)
            return;
        Write32(112, 0xE2792ACA);
        Write32(116, 3);
        "raw"u8.CopyTo(_file.AsSpan(120));
        const int NameOffset = 256;
        byte[] name = Encoding.ASCII.GetBytes("backing.raw");
        Write64(8, NameOffset);
        Write32(16, (uint)name.Length);
        name.CopyTo(_file, NameOffset);
    }

    private void Count(int cluster, int references) => BinaryPrimitives.WriteUInt16BigEndian(
        _file.AsSpan((RefcountBlock * ClusterSize) + (cluster * 2)), (ushort)references);

    private void Write32(long offset, uint value) =>
        BinaryPrimitives.WriteUInt32BigEndian(_file.AsSpan((int)offset), value);

    private void Write64(long offset, ulong value) =>
        BinaryPrimitives.WriteUInt64BigEndian(_file.AsSpan((int)offset), value);
}
