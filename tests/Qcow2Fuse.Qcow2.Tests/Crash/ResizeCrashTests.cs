// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Crash;

/// <summary>
/// A power cut while the size changes leaves the old size or the new one, all data that both have, and nothing else in
/// what is new, also after the disk has grown again.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class ResizeCrashTests(ITestOutputHelper output)
{
    private const long SizeMax = 1 << 20;

    [Theory]
    [InlineData(512, false, 3, false)]
    [InlineData(4096, false, 3, true)]
    [InlineData(4096, false, 2, true)]
    [InlineData(65536, false, 3, false)]
    [InlineData(16384, true, 3, true)]
    public void Crash_states_of_resizes_are_right(int clusterSize, bool extended, int version, bool hasBacking)
    {
        byte[]? backing = hasBacking ? Stamp.Bytes(0, (int)SizeMax, 77) : null;
        long states = 0;
        for (ulong seed = 1; seed <= 12; seed++)
        {
            SeededRandom random = new(seed);
            CrashDevice disk = new();
            long size = RandomSize(random);
            Qcow2Creator.Create(disk, new Qcow2CreateOptions
            {
                Size = size,
                ClusterSize = clusterSize,
                ExtendedL2 = extended,
                Version = version,
                BackingFile = hasBacking ? "backing.raw" : null,
                BackingFormat = hasBacking ? "raw" : null,
            });
            byte[] content = new byte[size];
            backing?.AsSpan(0, (int)size).CopyTo(content);
            for (int step = 0; step < 4; step++)
            {
                long wanted = RandomSize(random);
                using (Qcow2Device device = Open(disk, backing))
                {
                    Fill(device, content, random);
                    device.Flush();
                    disk.StartRecording();
                    device.Resize(wanted);
                    states += Judge(disk, seed, backing, content, wanted);
                    Array.Resize(ref content, (int)wanted);
                }
            }
        }

        output.WriteLine($"{states} states");
        Assert.True(states >= 12 * 4 * 50);
    }

    private static long RandomSize(SeededRandom random) => 512 * (1L + random.Below((int)(SizeMax / 512)));

    private static void Fill(Qcow2Device device, byte[] content, SeededRandom random)
    {
        for (int i = 0; i < 8; i++)
        {
            int length = 1 + random.Below(Math.Min(content.Length, 40_000));
            int at = random.Below(content.Length - length + 1);
            byte[] data = Stamp.Bytes(at, length, (ulong)(i + 1));
            device.Write(at, data);
            data.CopyTo(content, at);
        }
    }

    private static long Judge(CrashDevice disk, ulong seed, byte[]? backing, byte[] before, long wanted)
    {
        ByteImage? below = backing is null ? null : new ArrayImage(backing);
        CrashStates states = new(disk.Initial, disk.Log, seed, 60);
        long judged = 0;
        while (states.Next())
        {
            PlainReader reader = new(states.State, below);
            Assert.True(reader.Size == before.Length || reader.Size == wanted, $"size {reader.Size}");
            Assert.Empty(reader.Check().Errors);
            ShouldHold(reader.ReadAll(), before, (int)Math.Min(before.Length, wanted), states);
            if (++judged % 10 == 0)
                ShouldGrow(disk, states, backing, before, wanted);
        }

        return judged;
    }

    /// <summary>Grown to the largest size by the engine, the state shows nothing that was cut off.</summary>
    private static void ShouldGrow(CrashDevice disk, CrashStates states, byte[]? backing, byte[] before, long wanted)
    {
        CrashDevice copy = new(disk.Clock, disk.Table);
        copy.Load(states.State);
        int kept;
        using (Qcow2Device device = Open(copy, backing))
        {
            kept = device.Length == before.Length ? before.Length : (int)Math.Min(before.Length, wanted);
            device.Resize(SizeMax * 2);
        }

        PlainReader reader = new(copy.Current, backing is null ? null : new ArrayImage(backing));
        Assert.Empty(reader.Check().Errors);
        ShouldHold(reader.ReadAll(), before, kept, states);
    }

    private static void ShouldHold(byte[] seen, byte[] before, int kept, CrashStates states)
    {
        int length = Math.Min(seen.Length, before.Length);
        Assert.True(
            seen.AsSpan(0, Math.Min(kept, length)).SequenceEqual(before.AsSpan(0, Math.Min(kept, length))),
            $"data is lost\n{states.Describe()}");
        if (seen.Length > before.Length || kept < before.Length)
        {
            int from = seen.Length == before.Length ? seen.Length : kept;
            Assert.True(
                seen.AsSpan(Math.Min(from, seen.Length)).IndexOfAnyExcept((byte)0) < 0,
                $"new space is not zero\n{states.Describe()}");
        }
    }

    private static Qcow2Device Open(BlockDevice disk, byte[]? backing) => Qcow2Device.Open(
        disk, new FormatOpenArguments { Backing = backing is null ? null : new BackingDevice(backing) });
}
