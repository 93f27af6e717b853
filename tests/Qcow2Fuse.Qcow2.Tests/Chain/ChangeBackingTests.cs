// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Live;
using Qcow2Fuse.Formats.Raw;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Chain;

/// <summary>The layers below an open image are exchanged for others.</summary>
public sealed class ChangeBackingTests
{
    private const int Disk = 4 << 20;
    private const int Workers = 4;
    private const int Region = Disk / Workers;
    private const int Exchanges = 200;
    private static readonly byte[] Content = Stamp.Bytes(0, Disk, 1);

    [Theory]
    [InlineData(CompressedWrites.Off, false)]
    [InlineData(CompressedWrites.Off, true)]
    [InlineData(CompressedWrites.AsImage, false)]
    public void Guests_read_and_write_while_layers_of_the_same_content_are_exchanged(
        CompressedWrites compress, bool extendedL2)
    {
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = Disk, ExtendedL2 = extendedL2 });
        FormatOpenArguments arguments = new() { Compress = compress, Backing = BackingChain.Mapped(Layers()) };
        using (LiveDevice live = new(Qcow2Device.Open(new Unowned(file), arguments)))
        {
            bool isOver = false;
            TestThread[] guests = [.. Enumerable.Range(0, Workers)
                .Select(number => TestThread.Start(() => Work(live, number, ref isOver)))];
            for (int i = 0; i < Exchanges; i++)
                LiveChain.ChangeBacking(live, below => below is RawDevice ? Layers() : Plain(Content))!.Dispose();
            Volatile.Write(ref isOver, true);
            foreach (TestThread guest in guests)
                guest.ShouldEnd();
        }

        Assert.True(ImageChecker.Check(file).IsClean);
    }

    /// <summary>Zeroes that the guest wrote where nothing was below stay zeroes when something is.</summary>
    [Fact]
    public void A_longer_layer_shows_where_nothing_was_written_and_nowhere_else()
    {
        const int Short = 1 << 20;
        const int Cluster = 65536;
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = Disk });
        using LiveDevice live = new(Qcow2Device.Open(
            new Unowned(file), new FormatOpenArguments { Backing = Plain(Content[..Short]) }));
        live.WriteZeroes(Short + Cluster, 2 * Cluster, mayUnmap: true);
        live.Write(Short + (8 * Cluster), Stamp.Bytes(0, 512, 7));
        byte[] expected = [.. Content];
        expected.AsSpan(Short + Cluster, 2 * Cluster).Clear();

        // A cluster of which a part was written was completed with what was below then.
        expected.AsSpan(Short + (8 * Cluster), Cluster).Clear();
        Stamp.Bytes(0, 512, 7).CopyTo(expected.AsSpan(Short + (8 * Cluster)));

        LiveChain.ChangeBacking(live, static _ => Plain(Content))!.Dispose();
        ShouldRead(live, expected);
        live.WriteZeroes(3 * Short, Cluster, mayUnmap: true);
        expected.AsSpan(3 * Short, Cluster).Clear();
        ShouldRead(live, expected);
    }

    [Fact]
    public void Without_anything_below_what_is_not_stored_is_zero()
    {
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = Disk });
        using LiveDevice live = new(Qcow2Device.Open(
            new Unowned(file), new FormatOpenArguments { Backing = Plain(Content) }));
        live.Write(0, [1, 2, 3]);
        LiveChain.ChangeBacking(live, static _ => null)!.Dispose();
        byte[] expected = new byte[Disk];
        Content.AsSpan(0, 65536).CopyTo(expected);
        ((ReadOnlySpan<byte>)[1, 2, 3]).CopyTo(expected);
        ShouldRead(live, expected);
        Assert.Null(LiveChain.ChangeBacking(live, static _ => Plain(Content)));
        Content.AsSpan(65536).CopyTo(expected.AsSpan(65536));
        ShouldRead(live, expected);
    }

    [Fact]
    public void A_snapshot_that_is_open_keeps_what_is_below_it()
    {
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = Disk });
        Qcow2Device image = Qcow2Device.Open(new Unowned(file), new FormatOpenArguments { Backing = Plain(Content) });
        using LiveDevice live = new(image);
        image.CreateSnapshot("first");
        using RawDevice other = Plain(new byte[Disk]);
        using (BlockDevice snapshot = image.OpenSnapshot("first"))
        {
            BlockException failure = Assert.Throws<BlockException>(
                () => LiveChain.ChangeBacking(live, _ => other));
            Assert.Equal(BlockErrorKind.Locked, failure.Kind);
            ShouldRead(snapshot, Content);
            ShouldRead(live, Content);
        }

        LiveChain.ChangeBacking(live, static _ => Plain(new byte[Disk]))!.Dispose();
        ShouldRead(live, new byte[Disk]);
    }

    private static void Work(LiveDevice live, int number, ref bool isOver)
    {
        SeededRandom random = new((ulong)number);
        byte[] mine = Content.AsSpan(number * Region, Region).ToArray();
        byte[] seen = new byte[Region];
        while (!Volatile.Read(ref isOver))
        {
            int at = (int)random.Below(Region / 512) * 512;
            int length = (int)Math.Min(random.Below(64) * 512 + 512, Region - at);
            long offset = (number * Region) + at;
            if (random.Chance(40))
            {
                mine.AsSpan(at, length).Fill((byte)random.NextBits());
                live.Write(offset, mine.AsSpan(at, length));
            }
            else if (live.TryBeginPlain(offset, length, isWrite: false, out PlainRun run))
            {
                // What it says is known by others; here it counts that it ends where it began.
                live.EndPlain(run);
            }

            live.Read(offset, seen.AsSpan(0, length));
            Assert.True(seen.AsSpan(0, length).SequenceEqual(mine.AsSpan(at, length)), $"{length} bytes at {offset}");
        }
    }

    private static void ShouldRead(BlockDevice device, byte[] expected)
    {
        byte[] seen = new byte[expected.Length];
        device.Read(0, seen);
        Assert.Equal(expected, seen);
    }

    private static RawDevice Plain(byte[] content)
    {
        MemoryDevice memory = new();
        memory.Write(0, content);
        return new RawDevice(memory, readOnly: true, DiscardMode.Unmap);
    }

    /// <summary>Two layers that store every second cluster each.</summary>
    private static Qcow2Device Layers()
    {
        const int Cluster = 65536;
        BlockDevice? below = null;
        for (int layer = 0; layer < 2; layer++)
        {
            MemoryDevice file = new();
            Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = Disk });
            using (Qcow2Device image = Qcow2Device.Open(new Unowned(file), new FormatOpenArguments()))
            {
                for (int cluster = layer; cluster < Disk / Cluster; cluster += 2)
                    image.Write(cluster * Cluster, Content.AsSpan(cluster * Cluster, Cluster));
            }

            below = Qcow2Device.Open(file, new FormatOpenArguments { ReadOnly = true, Backing = below });
        }

        return (Qcow2Device)below!;
    }

    /// <summary>A file that is looked at when the image over it is closed.</summary>
    private sealed class Unowned(BlockDevice child) : PassThroughDevice(child);
}
