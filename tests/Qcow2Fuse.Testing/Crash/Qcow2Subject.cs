// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Block.Live;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>The product's own engine under crash tests.</summary>
public sealed class Qcow2Subject : ICrashSubject
{
    /// <inheritdoc/>
    public CrashFeatures Features { get; init; }

    /// <summary>
    /// Whether the refcount table is nearly used up, so that it grows; all but a few of the clusters it counts leak.
    /// Needs clusters of 512 bytes and refcounts of 64 bits.
    /// </summary>
    public bool NearlyFullTable { get; init; }

    /// <summary>The largest clusters that random images have: large ones take long to compress.</summary>
    public int ClusterBitsMax { get; init; } = 21;

    /// <summary>
    /// Threads that compress. With none the requests of one writer follow from the seed.
    /// </summary>
    public int CompressionThreads { get; init; }

    /// <inheritdoc/>
    public string Name => Features == CrashFeatures.None ? "Qcow2Device" : $"Qcow2Device with {Features}";

    /// <inheritdoc/>
    public string Environment => string.Join(
        ' ',
        (string[])[
            .. ClusterBitsMax < 21 ? (string[])[$"QCOW2FUSE_CRASH_CLUSTER_BITS={ClusterBitsMax}"] : [],
            .. CompressionThreads > 0
                ? (string[])[$"QCOW2FUSE_CRASH_PACKERS={CompressionThreads}"]
                : [],
            .. Features != CrashFeatures.None
                ? (string[])[$"QCOW2FUSE_CRASH_WITH={Features.ToString().Replace(" ", "", StringComparison.Ordinal)}"]
                : [],
        ]);

    /// <inheritdoc/>
    public bool LeaksNothing => !NearlyFullTable;

    /// <inheritdoc/>
    public bool Supports(ImageKind kind) => kind.ClusterBits <= ClusterBitsMax
        && (!NearlyFullTable || kind is { ClusterBits: 9, RefcountOrder: 6 })
        && (kind.Version == 3 || !Has(CrashFeatures.Lazy | CrashFeatures.Data | CrashFeatures.Zstd))
        && !(kind.Compressed && Has(CrashFeatures.Data | CrashFeatures.Zstd))
        && (kind.HasBacking ? !Has(CrashFeatures.RawData) : !Has(CrashFeatures.Exchanges));

    /// <inheritdoc/>
    public void Create(BlockDevice file, ImageKind kind)
    {
        Qcow2Creator.Create(file, OptionsOf(kind) with
        {
            Compression = Has(CrashFeatures.Zstd) ? CompressionType.Zstd : CompressionType.Deflate,
        });
        if (NearlyFullTable)
            FillRefcountTable(file);
        if (Has(CrashFeatures.Lazy))
            SetBit(file, 80, 1);
        if (Has(CrashFeatures.Data))
            NameDataFile(file, Math.Min(kind.ClusterSize, 4096));
    }

    /// <summary>What an image of a kind is made with.</summary>
    internal static Qcow2CreateOptions OptionsOf(ImageKind kind) => new()
    {
        Size = kind.Size,
        Version = kind.Version,
        ClusterSize = kind.ClusterSize,
        ExtendedL2 = kind.ExtendedL2,
        RefcountBits = 1 << kind.RefcountOrder,
        BackingFile = kind.HasBacking ? "backing.raw" : null,
        BackingFormat = kind.HasBacking ? "raw" : null,
    };

    /// <inheritdoc/>
    public BlockDevice Open(BlockDevice file, BlockDevice? backing, BlockDevice? data)
    {
        bool smallCaches = Has(CrashFeatures.SmallCaches);
        Qcow2Device device = Qcow2Device.Open(file, new FormatOpenArguments
        {
            Backing = backing,
            DataFile = data,
            Compress = Has(CrashFeatures.Compress) ? CompressedWrites.AsImage : CompressedWrites.Off,
            Discard = Has(CrashFeatures.NoUnref) ? DiscardMode.NoUnref
                : Has(CrashFeatures.IgnoreDiscards) ? DiscardMode.Ignore
                : DiscardMode.Unmap,
            CommitInterval = Has(CrashFeatures.Commit) ? TimeSpan.FromMilliseconds(1) : TimeSpan.Zero,
            Formats =
            [
                new Qcow2Options
                {
                    L2CacheBytesMax = smallCaches ? 1 : 0,
                    RefcountCacheBytesMax = smallCaches ? 1 : 0,
                    CompressionThreads = CompressionThreads,
                },
            ],
        });
        return Has(CrashFeatures.Exchanges) ? new ExchangingDevice(new LiveDevice(device))
            : Has(CrashFeatures.WriteThrough) ? new WriteThroughFilter(device) : device;
    }

    private bool Has(CrashFeatures features) => (Features & features) != CrashFeatures.None;

    private static void SetBit(BlockDevice file, int field, ulong bit)
    {
        byte[] bytes = new byte[8];
        file.Read(field, bytes);
        BinaryPrimitives.WriteUInt64BigEndian(bytes, BinaryPrimitives.ReadUInt64BigEndian(bytes) | bit);
        file.Write(field, bytes);
    }

    /// <summary>
    /// Makes the data file <c>data.raw</c>: its name goes before the end of the header extensions, and what follows,
    /// the name of the backing file, moves up (specification, "Header extensions").
    /// </summary>
    private void NameDataFile(BlockDevice file, int headerBytes)
    {
        const int Inserted = 16;
        const int BackingField = 8;
        byte[] header = new byte[headerBytes];
        file.Read(0, header);
        int end = (int)BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(100));
        while (BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(end)) != 0)
            end += 8 + ((int)(BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(end + 4)) + 7) & ~7);
        header.AsSpan(end, headerBytes - end - Inserted).ToArray().CopyTo(header, end + Inserted);
        Encoding.ASCII.GetBytes("DATA\0\0\0\u0008data.raw").CopyTo(header, end);
        ulong backing = BinaryPrimitives.ReadUInt64BigEndian(header.AsSpan(BackingField));
        if (backing != 0)
            BinaryPrimitives.WriteUInt64BigEndian(header.AsSpan(BackingField), backing + Inserted);
        file.Write(0, header);
        SetBit(file, 72, 4);
        if (Has(CrashFeatures.RawData))
            SetBit(file, 88, 2);
    }

    /// <summary>
    /// Counts all but the last few of the 4096 clusters that one table cluster of 64 blocks of 64 refcounts can count.
    /// </summary>
    private static void FillRefcountTable(BlockDevice file)
    {
        const int Cluster = 512;
        const int Blocks = 64;
        const int Free = 30;
        byte[] table = new byte[Cluster];
        file.Read(Cluster, table);
        byte[] block = new byte[Cluster];
        for (int i = 0; i < Blocks; i++)
        {
            long offset = i == 0 ? BinaryPrimitives.ReadInt64BigEndian(table) : (Blocks + i) * Cluster;
            BinaryPrimitives.WriteInt64BigEndian(table.AsSpan(i * 8), offset);
            Array.Clear(block);
            int used = i == Blocks - 1 ? Blocks - Free : Blocks;
            for (int index = 0; index < used; index++)
                block[(index * 8) + 7] = 1;
            file.Write(offset, block);
        }

        file.Write(Cluster, table);
        file.Flush();
    }
}
