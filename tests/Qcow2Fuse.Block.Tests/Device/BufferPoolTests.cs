// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Memory;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Device;

public sealed class BufferPoolTests
{
    [Theory]
    [InlineData(4096)]
    [InlineData(65536)]
    public void A_populated_pool_has_memory_for_sixteen_workers(int size)
    {
        BufferPool.Shared.Populate();
        PooledBuffer[] rented = new PooledBuffer[BufferPool.KeptPerSize];
        for (int i = 0; i < rented.Length; i++)
            rented[i] = BufferPool.Shared.Rent(size);
        bool[] resident =
            [.. rented.Select(buffer => Resident.HasPage(in buffer.Span[0]) && Resident.HasPage(in buffer.Span[^1]))];
        foreach (PooledBuffer buffer in rented)
            buffer.Dispose();
        Assert.All(resident, Assert.True);
    }
}
