// SPDX-License-Identifier: MIT
using Qcow2Fuse.Protocols;
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
}
