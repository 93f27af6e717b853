// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Protocols.Memory;
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

    [Fact]
    public void A_disk_that_cannot_be_written_out_stays_open_for_whoever_comes_next()
    {
        using SlowDisk disk = new() { Time = TimeSpan.FromHours(1) };
        disk.Ready.Set();
        Assert.Same(disk.Device, disk.Acquire());
        disk.Release();
        disk.IsWrittenOut = false;
        Assert.False(disk.CloseUnused(TimeSpan.Zero));
        Assert.Equal((1, 0), (disk.Attempts, disk.Closed));

        // Not opened anew, which would show what the file holds.
        Assert.Same(disk.Device, disk.Current);
        Assert.Same(disk.Device, disk.Acquire());
        Assert.Equal(1, disk.Opened);
        disk.Release();
        Assert.False(disk.CloseUnused(TimeSpan.Zero));
        disk.IsWrittenOut = true;
        Assert.True(disk.CloseUnused(TimeSpan.Zero));
        Assert.Equal((3, 1), (disk.Attempts, disk.Closed));
        Assert.Null(disk.Current);
    }

    [Fact]
    public async Task Nobody_gets_the_disk_while_it_is_written_out()
    {
        using SlowDisk disk = new() { Time = TimeSpan.FromHours(1) };
        disk.Ready.Set();
        disk.Acquire();
        disk.Release();
        disk.Ready.Reset();
        Task<bool> closing = Task.Run(() => disk.CloseUnused(TimeSpan.Zero));
        Assert.True(await disk.Leaving.WaitAsync(Patience));
        Assert.Null(disk.AcquireOpen());
        Thread other = new(() => disk.Acquire());
        other.Start();
        Assert.True(SpinWait.SpinUntil(() => other.ThreadState.HasFlag(ThreadState.WaitSleepJoin), Patience));
        disk.Ready.Set();
        Assert.True(await closing.WaitAsync(Patience));
        Assert.True(other.Join(Patience));
        Assert.Equal((2, 1), (disk.Opened, disk.Closed));
    }

    [Fact]
    public async Task Who_has_to_know_waits_for_a_close_that_may_fail()
    {
        using SlowDisk disk = new() { Time = TimeSpan.FromHours(1), IsWrittenOut = false };
        Assert.Null(disk.Settled());
        disk.Ready.Set();
        disk.Acquire();
        disk.Release();
        disk.Ready.Reset();
        Task<bool> closing = Task.Run(() => disk.CloseUnused(TimeSpan.Zero));
        Assert.True(await disk.Leaving.WaitAsync(Patience));
        BlockDevice? seen = null;
        Thread other = new(() => seen = disk.Settled());
        other.Start();
        Assert.True(SpinWait.SpinUntil(() => other.ThreadState.HasFlag(ThreadState.WaitSleepJoin), Patience));
        disk.Ready.Set();
        Assert.False(await closing.WaitAsync(Patience));
        Assert.True(other.Join(Patience));
        Assert.Same(disk.Device, seen);

        // It is not closed under him.
        disk.IsWrittenOut = true;
        Assert.False(disk.CloseUnused(TimeSpan.Zero));
        disk.Release();
        Assert.True(disk.CloseUnused(TimeSpan.Zero));
        Assert.Null(disk.Settled());
    }

    [Fact]
    public void A_look_keeps_the_disk_open_while_it_lasts_and_no_longer()
    {
        using SlowDisk disk = new() { Time = TimeSpan.FromHours(1) };
        disk.Ready.Set();
        Assert.Null(disk.LookAt(static _ => 1));
        disk.Acquire();
        disk.Release();
        Assert.Equal(4096, disk.LookAt(device =>
        {
            Assert.False(disk.CloseUnused(TimeSpan.Zero));
            return device.Length;
        }));
        Assert.True(disk.CloseUnused(TimeSpan.Zero));
        Assert.Null(disk.LookAt(static _ => 1));
    }

    private sealed class SlowDisk : DiskSource, IDisposable
    {
        public SemaphoreSlim Begun { get; } = new(0);

        public SemaphoreSlim Failed { get; } = new(0);

        public ManualResetEventSlim Ready { get; } = new();

        public MemoryDevice Device { get; } = new(4096);

        public BlockException? Failure { get; init; }

        public int Opened { get; private set; }

        public int Closed { get; private set; }

        public int Attempts { get; private set; }

        public bool IsWrittenOut { get; set; } = true;

        public TimeSpan Time { get; init; }

        public SemaphoreSlim Leaving { get; } = new(0);

        public override long Length => 4096;

        public override long AllocatedBytes => 0;

        public override bool IsReadOnly => true;

        public BlockDevice? Settled() => AcquireSettled();

        public long? LookAt(Func<BlockDevice, long> look) => Look(look);

        public void Dispose()
        {
            Begun.Dispose();
            Failed.Dispose();
            Leaving.Dispose();
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

        protected override TimeSpan IdleTime => Time;

        protected override bool TryWriteOut()
        {
            Attempts++;
            Leaving.Release();
            Assert.True(Ready.Wait(Patience));
            return IsWrittenOut;
        }

        protected override void Close(BlockDevice device) => Closed++;
    }
}
