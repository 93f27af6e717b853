// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Protocols.Memory;

namespace Qcow2Fuse.Testing;

/// <summary>
/// A small image file with an enormous disk: all L1 entries name one L2 table, whose refcount is a lie.
/// </summary>
public static class FanImage
{
    private const int Tables = 3;

    /// <summary>Makes the file.</summary>
    /// <param name="clusterBits">log2 of the cluster size, 9 to 21.</param>
    /// <param name="tables">L1 entries.</param>
    /// <param name="entryOf">The L2 entry of a number.</param>
    public static MemoryDevice Create(int clusterBits, int tables, Func<int, ulong> entryOf)
    {
        int cluster = 1 << clusterBits;
        int perTable = cluster / 8;
        long size = (long)UInt128.Min((UInt128)tables * (uint)perTable * (uint)cluster, long.MaxValue - 511);
        byte[] header = new byte[112];
        U32(header, 0, 0x5146_49fb);
        U32(header, 4, 3);
        U32(header, 20, (uint)clusterBits);
        U64(header, 24, (ulong)size);
        U32(header, 36, (uint)tables);
        U64(header, 40, (ulong)(Tables * cluster));
        U64(header, 48, (ulong)cluster);
        U32(header, 56, 1);
        U32(header, 96, 4);
        U32(header, 100, 104);
        byte[] l1 = new byte[tables * 8];
        long table = ((Tables * (long)cluster) + l1.Length + cluster - 1) & -cluster;
        for (int i = 0; i < tables; i++)
            U64(l1, i * 8, (ulong)table);
        byte[] l2 = new byte[cluster];
        for (int i = 0; i < perTable; i++)
            U64(l2, i * 8, entryOf(i));
        byte[] refcounts = new byte[8];
        U64(refcounts, 0, (ulong)(2 * cluster));
        MemoryDevice file = new(table + cluster);
        file.Write(0, header);
        file.Write(cluster, refcounts);
        file.Write(Tables * cluster, l1);
        file.Write(table, l2);
        return file;
    }

    private static void U32(byte[] bytes, int at, uint value) =>
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(at), value);

    private static void U64(byte[] bytes, int at, ulong value) =>
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(at), value);
}
