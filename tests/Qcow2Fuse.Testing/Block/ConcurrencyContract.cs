// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Testing;

/// <summary>What every <see cref="BlockDevice"/> promises to callers on many threads.</summary>
public abstract class ConcurrencyContract : BlockDeviceContract
{
    private const int Threads = 4;

    [Theory]
    [InlineData(100)]
    [InlineData(512)]
    [InlineData(4096)]
    [InlineData(10007)]
    public void Disjoint_writes_by_many_threads_all_arrive(int stripe)
    {
        using BlockDevice device = Create(Size);
        int stripes = Math.Min(Size / stripe, 2000);
        InParallel(thread =>
        {
            for (int i = thread; i < stripes; i += Threads)
                device.Write((long)i * stripe, DeviceModel.Pattern(stripe, seed: i));
        });
        byte[] content = ReadAll(device);
        for (int i = 0; i < stripes; i++)
            Assert.Equal(DeviceModel.Pattern(stripe, seed: i), content[(i * stripe)..((i + 1) * stripe)]);
    }

    [Theory]
    [InlineData(1000)]
    [InlineData(4096)]
    [InlineData(65536)]
    public void Zeroing_beside_writes_touches_only_its_own_range(int stripe)
    {
        using BlockDevice device = Create(Size);
        device.Write(0, DeviceModel.Pattern(Size, seed: 99));
        int stripes = Math.Min(Size / stripe, 1000);
        InParallel(thread =>
        {
            for (int i = thread; i < stripes; i += Threads)
            {
                if (thread % 2 == 0)
                    device.WriteZeroes((long)i * stripe, stripe, mayUnmap: i % 8 < 4);
                else
                    device.Write((long)i * stripe, DeviceModel.Pattern(stripe, seed: i));
            }
        });
        byte[] content = ReadAll(device);
        for (int i = 0; i < stripes; i++)
        {
            byte[] expected = i % 2 == 0 ? new byte[stripe] : DeviceModel.Pattern(stripe, seed: i);
            Assert.Equal(expected, content[(i * stripe)..((i + 1) * stripe)]);
        }
    }

    [Fact]
    public void Bytes_that_nobody_writes_stay_readable_while_neighbours_are_written()
    {
        using BlockDevice device = Create(Size);
        byte[] quiet = DeviceModel.Pattern(700, seed: 1);
        device.Write(5000, quiet);
        int running = Threads - 1;
        InParallel(thread =>
        {
            if (thread == 0)
            {
                byte[] read = new byte[quiet.Length];
                while (Volatile.Read(ref running) > 0)
                {
                    device.Read(5000, read);
                    Assert.Equal(quiet, read);
                }

                return;
            }

            try
            {
                for (int i = 0; i < 300; i++)
                    device.Write(thread == 1 ? 4500 : 5000 + (700 * (thread - 1)), DeviceModel.Pattern(500, i));
            }
            finally
            {
                Interlocked.Decrement(ref running);
            }
        });
    }

    [Fact]
    public void Flushes_by_many_threads_beside_writes_return()
    {
        using BlockDevice device = Create(Size);
        InParallel(thread =>
        {
            for (int i = 0; i < 25; i++)
            {
                device.Write((thread * 262144) + (i * 4096), DeviceModel.Pattern(4096, seed: i));
                device.Flush();
            }
        });
        byte[] content = ReadAll(device);
        for (int thread = 0; thread < Threads; thread++)
        {
            for (int i = 0; i < 25; i++)
            {
                int start = (thread * 262144) + (i * 4096);
                Assert.Equal(DeviceModel.Pattern(4096, seed: i), content[start..(start + 4096)]);
            }
        }
    }

    [Fact]
    public void Writes_past_the_end_by_many_threads_leave_the_furthest_end()
    {
        using BlockDevice device = Create(4096);
        if (!device.Limits.GrowsOnWrite)
        {
            ShouldFail(BlockErrorKind.OutOfRange, () => device.Write(4096, new byte[1]));
            return;
        }

        const int Stripe = 3001;
        InParallel(thread =>
        {
            for (int i = thread; i < 80; i += Threads)
            {
                if (i % 5 == 0)
                    device.WriteZeroes(4096 + (i * Stripe), Stripe, mayUnmap: i % 10 == 0);
                else
                    device.Write(4096 + (i * Stripe), DeviceModel.Pattern(Stripe, seed: i));
            }
        });
        Assert.Equal(4096 + (80 * Stripe), device.Length);
        byte[] content = ReadAll(device);
        for (int i = 0; i < 80; i++)
        {
            byte[] expected = i % 5 == 0 ? new byte[Stripe] : DeviceModel.Pattern(Stripe, seed: i);
            Assert.Equal(expected, content[(4096 + (i * Stripe))..(4096 + ((i + 1) * Stripe))]);
        }
    }

    private static void InParallel(Action<int> work)
    {
        Task[] tasks = [.. Enumerable.Range(0, Threads).Select(thread => Task.Factory.StartNew(
            () => work(thread), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
        Assert.True(Task.WaitAll(tasks, Eventually.Patience), "the threads are not done");
    }
}
