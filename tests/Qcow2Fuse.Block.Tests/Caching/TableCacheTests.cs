// SPDX-License-Identifier: MIT
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Caching;
using Qcow2Fuse.Protocols.Memory;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Caching;

public sealed class TableCacheTests
{
    [Fact]
    public void A_cache_that_was_given_back_twice_hands_out_nothing()
    {
        object gate = new();
        using MemoryDevice device = new();
        device.Write(0, new byte[8192]);
        TableCache cache = new(device, 4096, 8, gate, DirtyEviction.WriteVictim);
        lock (gate)
        {
            using (CachedTable table = cache.Get(0))
                table.Modify()[0] = 1;
            cache.Freeze();
            using (CachedTable table = cache.Get(0))
                table.Modify()[0] = 2;
            cache.Dispose();
            cache.Dispose();
            Assert.Throws<ObjectDisposedException>(() =>
            {
                using CachedTable table = cache.Get(0);
            });
        }
    }

    /// <summary>Only the first table is ever used; the memory of the others is there all the same, and stays.</summary>
    [Fact]
    public void Populated_memory_is_there_before_its_tables()
    {
        const int TableSize = 4096;
        const int Tables = 64;
        object gate = new();
        using MemoryDevice device = new();
        device.Write(0, new byte[TableSize]);
        using TableCache cache = new(device, TableSize, Tables, gate, DirtyEviction.WriteVictim);
        lock (gate)
        {
            cache.Populate(TableSize * Tables);
            for (int round = 0; round < 3; round++)
            {
                using (CachedTable table = cache.Get(0))
                {
                    ref byte first = ref MemoryMarshal.GetReference(table.Bytes);
                    ref byte last = ref Unsafe.Add(ref first, TableSize * (Tables - 1));
                    Assert.True(Resident.HasPage(in last));
                }

                cache.DropIdle();
                cache.DropIdle();
            }
        }
    }
}
