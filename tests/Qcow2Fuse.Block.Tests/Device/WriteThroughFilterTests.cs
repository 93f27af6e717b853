// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

public sealed class WriteThroughFilterTests : ConcurrencyContract
{
    protected override BlockDevice Create(long length) => new WriteThroughFilter(new MemoryDevice(length));

    [Fact]
    public void Every_change_is_flushed_before_it_returns()
    {
        CountingDevice counting = new(new MemoryDevice(Size));
        using WriteThroughFilter device = new(counting);
        device.Write(0, [1]);
        Assert.Equal(1, counting.Flushes);
        device.WriteParts(0, [1], [2], [3]);
        Assert.Equal(2, counting.Flushes);
        device.WriteZeroes(0, 10, mayUnmap: true);
        Assert.Equal(3, counting.Flushes);
        device.Discard(0, 10);
        Assert.Equal(4, counting.Flushes);
        device.Resize(2 * Size);
        Assert.Equal(5, counting.Flushes);
        device.Read(0, new byte[10]);
        Assert.Equal(5, counting.Flushes);
        device.Flush();
        Assert.Equal(6, counting.Flushes);
    }

    private sealed class CountingDevice(BlockDevice child) : FilterDevice(child)
    {
        public int Flushes { get; private set; }

        public override void Flush()
        {
            Flushes++;
            base.Flush();
        }
    }
}
