// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;
using Qcow2Fuse.Hosting;
using Qcow2Fuse.Protocols;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>Disks that take long to open.</summary>
public sealed class DiskSourceTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task Who_can_do_without_the_disk_does_not_wait_for_it()
    {
        using SlowDisk disk = new();
        Task<BlockDevice> opening = Task.Run(disk.Acquire);
        Assert.True(await disk.Begun.WaitAsync(Patience));
        Assert.Null(disk.AcquireOpen());
        Assert.Null(disk.Current);
        Assert.False(disk.CloseUnused(TimeSpan.Zero));
        disk.Ready.Set();
        Assert.Same(disk.Device, await opening.WaitAsync(Patience));
        Assert.Same(disk.Device, disk.AcquireOpen());
        disk.Release();
        disk.Release();
        Assert.Null(disk.Current);
    }

    [Fact]
    public async Task Who_waits_for_an_opening_that_fails_does_not_try_again()
    {
        using SlowDisk disk = new() { Failure = new BlockException(BlockErrorKind.TooLarge, "no") };
        Task<BlockDevice> first = Task.Run(disk.Acquire);
        Assert.True(await disk.Begun.WaitAsync(Patience));
        Thread[] others = [.. Enumerable.Range(0, 5).Select(_ => new Thread(() =>
        {
            try
            {
                disk.Acquire();
            }
            catch (BlockException failure) when (failure.Kind == BlockErrorKind.TooLarge)
            {
                disk.Failed.Release();
            }
        }))];
        foreach (Thread other in others)
            other.Start();
        foreach (Thread other in others)
            Assert.True(SpinWait.SpinUntil(() => other.ThreadState.HasFlag(ThreadState.WaitSleepJoin), Patience));
        disk.Ready.Set();
        await Assert.ThrowsAsync<BlockException>(() => first.WaitAsync(Patience));
        for (int i = 0; i < others.Length; i++)
            Assert.True(await disk.Failed.WaitAsync(Patience));
        Assert.Equal(1, disk.Opened);

        // Whoever comes later does.
        Assert.Throws<BlockException>(disk.Acquire);
        Assert.Equal(2, disk.Opened);
    }

    private sealed class SlowDisk : DiskSource, IDisposable
    {
        public SemaphoreSlim Begun { get; } = new(0);

        public SemaphoreSlim Failed { get; } = new(0);

        public ManualResetEventSlim Ready { get; } = new();

        public MemoryDevice Device { get; } = new(4096);

        public BlockException? Failure { get; init; }

        public int Opened { get; private set; }

        public override long Length => 4096;

        public override long AllocatedBytes => 0;

        public override bool IsReadOnly => true;

        public void Dispose()
        {
            Begun.Dispose();
            Failed.Dispose();
            Ready.Dispose();
            Device.Dispose();
        }

        protected override BlockDevice Open()
        {
            Opened++;
            Begun.Release();
            Assert.True(Ready.Wait(Patience));
            return Failure is null ? Device : throw Failure;
        }

        protected override void Close(BlockDevice device)
        {
        }
    }
}
