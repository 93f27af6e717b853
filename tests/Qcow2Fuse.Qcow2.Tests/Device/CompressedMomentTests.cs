// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>
/// Changes of the whole image while writers fill compressed clusters: what is gathered belongs to one moment.
/// </summary>
public sealed class CompressedMomentTests
{
    private const int ClusterSize = 65536;
    private const int Piece = 512;
    private const ulong Soft = Stamp.Compressible;

    private static readonly FormatOpenArguments Compressing = new() { Compress = CompressedWrites.AsImage };

    [Fact]
    public async Task A_snapshot_holds_of_each_writer_what_it_had_written_at_one_moment()
    {
        const int Snapshots = 5;
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = 4 * Writer.Region, ClusterSize = ClusterSize }, arguments: Compressing);
        var device = (Qcow2Device)image.Device;
        Writer[] writers = [.. Enumerable.Range(0, 4).Select(i => new Writer(device, i))];
        Task[] tasks =
        [
            .. writers.Select(static writer => Task.Factory.StartNew(
                writer.Run, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default)),
        ];
        List<(int[] Before, int[] After)> moments = [];
        for (int i = 1; i <= Snapshots; i++)
        {
            int wanted = i * Writer.Pieces / (Snapshots + 1);
            Eventually.Holds(() =>
                tasks.Any(static task => task.IsCompleted) || writers.All(writer => writer.Done >= wanted));
            int[] before = [.. writers.Select(static writer => writer.Done)];
            device.CreateSnapshot($"s{i}");

            // One more may be written and not be counted yet.
            moments.Add((before, [.. writers.Select(static writer => writer.Done + 1)]));
        }

        await Task.WhenAll(tasks);
        for (int i = 1; i <= Snapshots; i++)
        {
            using BlockDevice snapshot = device.OpenSnapshot($"s{i}");
            foreach (Writer writer in writers)
            {
                int held = writer.PrefixIn(snapshot);
                Assert.InRange(held, moments[i - 1].Before[writer.Number], moments[i - 1].After[writer.Number]);
            }
        }

        Assert.All(writers, writer => Assert.Equal(Writer.Pieces, writer.PrefixIn(device)));
        image.Reopen().ShouldPassCheck();
        Assert.All(writers, writer => Assert.Equal(Writer.Pieces, writer.PrefixIn(image.Device)));
    }

    [Fact]
    public async Task A_shrink_under_a_writer_leaves_nothing_that_cannot_be_flushed()
    {
        const int Small = (2 << 20) + Piece;
        const int Large = 4 << 20;
        using TestImage image = TestImage.Create(
            new Qcow2CreateOptions { Size = Large, ClusterSize = ClusterSize }, arguments: Compressing);
        image.Write(0, Large, Soft | 1);
        using CancellationTokenSource end = new();
        int written = 0, refused = 0;
        Task writer = Task.Factory.StartNew(
            () =>
            {
                SeededRandom random = new(1);
                while (!end.IsCancellationRequested)
                {
                    int at = (2 << 20) + (Piece * random.Below((2 << 20) / Piece));
                    try
                    {
                        image.Write(at, Piece, Soft | 2);
                        Interlocked.Increment(ref written);
                    }
                    catch (BlockException e) when (e.Kind == BlockErrorKind.OutOfRange)
                    {
                        Interlocked.Increment(ref refused);
                    }
                }
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        for (int round = 0; (round < 20 || Volatile.Read(ref refused) == 0) && !writer.IsCompleted; round++)
        {
            int seen = Volatile.Read(ref written);
            Eventually.Holds(() => Volatile.Read(ref written) >= seen + 50 || writer.IsCompleted);
            image.Device.Resize(Small);
            image.Device.Flush();
            Assert.Equal(Small, image.Device.Length);
            int turnedAway = Volatile.Read(ref refused);
            if (round % 2 == 0)
                Eventually.Holds(() => Volatile.Read(ref refused) > turnedAway || writer.IsCompleted);
            image.Device.Resize(Large);
        }

        await end.CancelAsync();
        await writer;
        image.Device.Resize(Small);
        image.Device.Flush();
        image.Reopen();
        Assert.Equal(Small, image.Device.Length);
        image.ShouldRead(0, 2 << 20, Soft | 1).Device.Resize(Large);
        image.ShouldReadZeroes(Small, Large - Small).Close().ShouldPassCheck();
    }

    /// <summary>Writes the pieces of its own region of the disk in an order of its own.</summary>
    private sealed class Writer
    {
        public const int Region = 2 << 20;
        public const int Pieces = Region / Piece;

        private readonly Qcow2Device _device;
        private readonly int[] _order = [.. Enumerable.Range(0, Pieces)];
        private int _done;

        public Writer(Qcow2Device device, int number)
        {
            _device = device;
            Number = number;
            SeededRandom random = new((ulong)number + 1);
            for (int i = Pieces - 1; i > 0; i--)
            {
                int other = random.Below(i + 1);
                (_order[i], _order[other]) = (_order[other], _order[i]);
            }
        }

        public int Number { get; }

        /// <summary>How many pieces are written.</summary>
        public int Done => Volatile.Read(ref _done);

        private long Start => (long)Number * Region;

        public void Run()
        {
            foreach (int piece in _order)
            {
                long at = Start + ((long)piece * Piece);
                _device.Write(at, Stamp.Bytes(at, Piece, Soft | 1));
                Interlocked.Increment(ref _done);
            }
        }

        /// <summary>How many pieces a disk holds, which are the first ones.</summary>
        public int PrefixIn(BlockDevice disk)
        {
            byte[] seen = new byte[Region];
            disk.Read(Start, seen);
            byte[] expected = Stamp.Bytes(Start, Region, Soft | 1);
            int held = 0;
            while (held < Pieces && Of(seen, held).SequenceEqual(Of(expected, held)))
                held++;
            for (int i = held; i < Pieces; i++)
            {
                Assert.True(!Of(seen, i).ContainsAnyExcept((byte)0),
                    $"writer {Number}: of {Pieces} pieces number {held} is missing and number {i} is there");
            }

            return held;
        }

        private ReadOnlySpan<byte> Of(byte[] region, int index) => region.AsSpan(_order[index] * Piece, Piece);
    }
}
