// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Block;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>The product's own engine under crash tests.</summary>
public sealed class Qcow2Subject : ICrashSubject
{
    /// <summary>
    /// Whether the metadata caches are as small as the engine can work with, so that entries are evicted all the time
    /// and not only written by a flush.
    /// </summary>
    public bool SmallCaches { get; init; }

    /// <summary>
    /// Whether the refcount table is nearly used up, so that it grows; all but a few of the clusters it counts leak.
    /// Needs clusters of 512 bytes and refcounts of 64 bits.
    /// </summary>
    public bool NearlyFullTable { get; init; }

    /// <summary>Whether what the guest writes is compressed.</summary>
    public bool Compress { get; init; }

    /// <summary>The largest clusters that random images have: large ones take long to compress.</summary>
    public int ClusterBitsMax { get; init; } = 21;

    /// <inheritdoc/>
    public string Name => "Qcow2Device" + (Compress ? " that compresses" : string.Empty)
        + (SmallCaches ? " with small caches" : string.Empty);

    /// <inheritdoc/>
    public string Environment => string.Join(
        ' ',
        (string[])[
            .. SmallCaches ? (string[])["QCOW2FUSE_CRASH_SMALL_CACHES=1"] : [],
            .. ClusterBitsMax < 21 ? (string[])[$"QCOW2FUSE_CRASH_CLUSTER_BITS={ClusterBitsMax}"] : [],
            .. Compress ? (string[])["QCOW2FUSE_CRASH_COMPRESS=1"] : [],
        ]);

    /// <inheritdoc/>
    public bool LeaksNothing => !NearlyFullTable;

    /// <inheritdoc/>
    public bool Supports(ImageKind kind) => kind.ClusterBits <= ClusterBitsMax
        && (!NearlyFullTable || kind is { ClusterBits: 9, RefcountOrder: 6 });

    /// <inheritdoc/>
    public void Create(BlockDevice file, ImageKind kind)
    {
        Qcow2Creator.Create(file, OptionsOf(kind));
        if (NearlyFullTable)
            FillRefcountTable(file);
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
    public BlockDevice Open(BlockDevice file, BlockDevice? backing) =>
        Qcow2Device.Open(file, new FormatOpenArguments
        {
            Backing = backing,
            Compress = Compress ? CompressedWrites.AsImage : CompressedWrites.Off,
            L2CacheBytesMax = SmallCaches ? 1 : 0,
            RefcountCacheBytesMax = SmallCaches ? 1 : 0,
        });

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
