// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Bitmaps;

/// <summary>Every request of a workload fails once: errors are told, and no bitmap lies afterwards.</summary>
public sealed class BitmapFaultTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData(BlockOp.Read, BlockErrorKind.Io)]
    [InlineData(BlockOp.Write, BlockErrorKind.Io)]
    [InlineData(BlockOp.Write, BlockErrorKind.NoSpace)]
    [InlineData(BlockOp.WriteZeroes, BlockErrorKind.NoSpace)]
    [InlineData(BlockOp.Flush, BlockErrorKind.Io)]
    [Trait(Speed.Name, Speed.Slow)]
    public void After_a_failed_request_a_bitmap_is_right_or_in_use(BlockOp op, BlockErrorKind error)
    {
        int failures = 0;
        foreach (int clusterSize in (int[])[512, 65536])
        {
            for (ulong seed = 1; seed <= 4; seed++)
            {
                int nth = 1;
                while (FailNth(op, error, nth, seed, clusterSize))
                {
                    nth++;
                    failures++;
                }
            }
        }

        output.WriteLine($"{failures} failed requests");
        Assert.True(failures > (op == BlockOp.WriteZeroes ? 3 : 50));
    }

    /// <summary>False when the workload has no such request any more.</summary>
    private static bool FailNth(BlockOp op, BlockErrorKind error, int nth, ulong seed, int clusterSize)
    {
        SeededRandom random = new(seed);
        const long Size = 700 * 512;
        CrashDevice disk = new();
        Qcow2Creator.Create(disk, new Qcow2CreateOptions { Size = Size, ClusterSize = clusterSize });
        BitmapWorkload work = new(random, new BitmapModel(Size));
        FaultyDevice faulty = new(disk);
        Qcow2Device device = Qcow2Device.Open(faulty, new FormatOpenArguments());
        work.Next()(device);
        faulty.Fail(new FaultRule
        {
            Op = op,
            Nth = nth,
            Error = error,
            TornBytes = nth % 2 == 0 ? 5000 : 0,
            TornAlignment = 512,
        });
        List<BitmapModel> possible = [work.Model.Copy()];
        string last = "";
        bool failed = false;
        for (int i = 0; i < 30; i++)
        {
            Action<Qcow2Device> step = work.Next();
            try
            {
                step(device);
                possible = [work.Model.Copy()];
            }
            catch (BlockException e) when (faulty.FailureCount > 0)
            {
                Assert.DoesNotContain('\n', e.Message);
                possible = [work.Before, work.Model.Copy()];
                last = work.LastStep;
                failed = true;
                break;
            }
        }

        try
        {
            device.Dispose();
        }
        catch (BlockException) when (faulty.FailureCount > 0)
        {
            failed = true;
        }

        PlainReader reader = new(disk.Current);
        PlainCheck check = reader.Check();
        string where = $"{op} {nth}, seed {seed}, clusters of {clusterSize}: {last}";
        Assert.True(check.Errors.Count == 0, $"{where}: {string.Join("; ", check.Errors)}");
        foreach (PlainBitmap bitmap in PlainBitmaps.Read(reader))
        {
            string? wrong = bitmap.InUse
                ? failed ? null : $"bitmap {bitmap.Name} is in use"
                : Worst(possible, bitmap);
            Assert.True(wrong is null, $"{where}: {wrong}");
        }

        return faulty.FailureCount > 0;
    }

    /// <summary>A bitmap may record more than it has to after a failure, never less.</summary>
    private static string? Worst(List<BitmapModel> possible, PlainBitmap bitmap)
    {
        if (possible.Exists(model => model.Compare(bitmap) is null))
            return null;
        foreach (BitmapModel model in possible)
        {
            if (model.Bitmaps.TryGetValue(bitmap.Name, out BitmapModel.Entry? entry)
                && bitmap.Bits!.Length == entry.Bits.Length
                && !entry.Bits.Where((set, i) => set && !bitmap.Bits[i]).Any())
                return null;
        }

        return possible[0].Compare(bitmap);
    }
}
