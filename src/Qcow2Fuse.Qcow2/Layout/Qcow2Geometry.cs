// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>
/// Every shift, mask and index function that follows from cluster size, entry size and refcount width; specification
/// sections "Host cluster management" and "Cluster mapping". Fixed for the life of an image.
/// </summary>
public sealed class Qcow2Geometry
{
    /// <summary>Tables are cached in slices of at most this many bytes, so that a miss reads little.</summary>
    public const int SliceBytesMax = 4096;

    /// <summary>Subclusters in a cluster of an image with extended L2 entries.</summary>
    public const int ExtendedSubclusters = 32;

    /// <summary>Derives all figures from the header's.</summary>
    public Qcow2Geometry(Qcow2Header header)
    {
        Version = header.Version;
        ClusterBits = header.ClusterBits;
        RefcountOrder = header.RefcountOrder;
        ExtendedL2 = header.HasExtendedL2;
        DataIsExternal = header.HasExternalData;
        int l2EntryBits = ExtendedL2 ? 4 : 3;
        L2EntryBytes = 1 << l2EntryBits;
        L2Bits = ClusterBits - l2EntryBits;
        Subclusters = ExtendedL2 ? ExtendedSubclusters : 1;
        SubclusterBits = ExtendedL2 ? ClusterBits - 5 : ClusterBits;
        SliceBytes = Math.Min(ClusterSize, SliceBytesMax);
        SliceEntries = SliceBytes / L2EntryBytes;
        RefcountBits = 1 << RefcountOrder;
        RefcountBlockBits = ClusterBits + 3 - RefcountOrder;
        RefcountSliceEntries = SliceBytes * 8 / RefcountBits;
        CompressedOffsetBits = 62 - (ClusterBits - 8);
    }

    /// <summary>Format version, 2 or 3.</summary>
    public int Version { get; }

    /// <summary>log2 of the cluster size, 9 to 21.</summary>
    public int ClusterBits { get; }

    /// <summary>Bytes of a cluster.</summary>
    public int ClusterSize => 1 << ClusterBits;

    /// <summary>The bits of an offset that lie inside a cluster.</summary>
    public long ClusterMask => ClusterSize - 1L;

    /// <summary>Whether L2 entries are 16 bytes with a subcluster bitmap.</summary>
    public bool ExtendedL2 { get; }

    /// <summary>Whether guest data lies in an external data file, each cluster at its guest offset.</summary>
    public bool DataIsExternal { get; }

    /// <summary>Bytes of an L2 entry, 8 or 16.</summary>
    public int L2EntryBytes { get; }

    /// <summary>log2 of the entries of an L2 table.</summary>
    public int L2Bits { get; }

    /// <summary>Guest bytes that one L2 table maps.</summary>
    public long L2Coverage => 1L << (L2Bits + ClusterBits);

    /// <summary>Subclusters in a cluster: 32 with extended L2 entries, else 1.</summary>
    public int Subclusters { get; }

    /// <summary>log2 of the subcluster size; the cluster's where there are no subclusters.</summary>
    public int SubclusterBits { get; }

    /// <summary>Bytes of a subcluster.</summary>
    public int SubclusterSize => 1 << SubclusterBits;

    /// <summary>Bytes of a cached slice of an L2 table or a refcount block.</summary>
    public int SliceBytes { get; }

    /// <summary>L2 entries in a slice.</summary>
    public int SliceEntries { get; }

    /// <summary>log2 of the refcount width in bits, 0 to 6.</summary>
    public int RefcountOrder { get; }

    /// <summary>Bits of a refcount, 1 to 64.</summary>
    public int RefcountBits { get; }

    /// <summary>log2 of the refcounts in a refcount block.</summary>
    public int RefcountBlockBits { get; }

    /// <summary>Refcounts in a slice of a refcount block.</summary>
    public int RefcountSliceEntries { get; }

    /// <summary>Bits of a compressed cluster descriptor that hold the host offset ("x" in the specification).</summary>
    public int CompressedOffsetBits { get; }

    /// <summary>Entries of an L1 table for a disk of <paramref name="size"/> bytes.</summary>
    public long L1EntriesFor(long size) => size == 0 ? 0 : ((size - 1) >> (L2Bits + ClusterBits)) + 1;

    /// <summary>The entry of the L1 table for a guest offset.</summary>
    public long L1Index(GuestOffset guest) => guest.Value >> (L2Bits + ClusterBits);

    /// <summary>Index of the cluster's entry in its L2 table.</summary>
    public int L2Index(GuestOffset guest) => (int)(guest.Value >> ClusterBits) & ((1 << L2Bits) - 1);

    /// <summary>Byte offset in the L2 table of the slice that holds the cluster's entry.</summary>
    public int SliceOffset(GuestOffset guest) => L2Index(guest) / SliceEntries * SliceBytes;

    /// <summary>Index of the cluster's entry in its slice.</summary>
    public int IndexInSlice(GuestOffset guest) => L2Index(guest) % SliceEntries;

    /// <summary>Number of the subcluster within its cluster.</summary>
    public int SubclusterIndex(GuestOffset guest) => (int)((guest.Value & ClusterMask) >> SubclusterBits);

    /// <summary>Bytes from the beginning of the cluster.</summary>
    public int InCluster(GuestOffset guest) => (int)(guest.Value & ClusterMask);

    /// <summary>Where the cluster begins.</summary>
    public GuestOffset ClusterStart(GuestOffset guest) => new(guest.Value & ~ClusterMask);

    /// <summary>The first cluster boundary at or after <paramref name="value"/>.</summary>
    public long RoundUpToCluster(long value) => checked(value + ClusterMask) & ~ClusterMask;

    /// <summary>The next boundary of a subcluster, or the value itself.</summary>
    public long RoundUpToSubcluster(long value) => (value + SubclusterSize - 1L) & -(long)SubclusterSize;

    /// <summary>The boundary of a subcluster before the value, or the value itself.</summary>
    public long RoundDownToSubcluster(long value) => value & -(long)SubclusterSize;

    /// <summary>Guest bytes from <paramref name="guest"/> to the end of what its L2 slice maps.</summary>
    public long BytesToSliceEnd(GuestOffset guest) =>
        ((long)(SliceEntries - IndexInSlice(guest)) << ClusterBits) - InCluster(guest);
}
