// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Qcow2.Tests.Bitmaps;

/// <summary>
/// After a crash at any moment the metadata is sound, and each bitmap is in use or holds exactly what it should: no
/// bitmap lies, and those that record nothing are never lost.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class BitmapCrashTests(ITestOutputHelper output)
{
    private const int Steps = 40;

    /// <summary>
    /// A moment from which on the file may also hold what the model says after a step; the guest may have written.
    /// </summary>
    private sealed record Span(
        long Begin, long End, string What, BitmapModel Before, BitmapModel After, bool Resize, bool Written);

    [Theory]
    [InlineData(512)]
    [InlineData(1024)]
    [InlineData(4096)]
    [InlineData(65536)]
    public void In_every_crash_state_a_bitmap_is_right_or_in_use(int clusterSize)
    {
        long judged = 0, usable = 0;
        for (ulong seed = 1; seed <= 12; seed++)
        {
            (CrashDevice disk, List<Span> spans) = Run(seed, clusterSize);
            CrashStates states = new(disk.Initial, disk.Log, seed, 300, spans.Select(span => span.End));
            while (states.Next())
            {
                string? wrong = Judge(states.State, spans, states.Time, ref usable);
                Assert.True(wrong is null, $"clusters of {clusterSize}, seed {seed}: {wrong}\n{states.Describe()}\n"
                    + string.Join('\n', spans.Where(span => span.Begin <= states.Time).Select(span => span.What)));
                if (++judged % 37 == 0)
                    Recover(disk, states.State);
            }
        }

        output.WriteLine($"{judged} states, {usable} bitmaps that were not in use");
        Assert.True(usable > judged / 4, "hardly any state had a bitmap that was not in use");
    }

    [Fact]
    public void A_disk_that_forgets_flushes_makes_a_bitmap_lie()
    {
        long usable = 0;
        for (ulong seed = 1; seed <= 30; seed++)
        {
            (CrashDevice disk, List<Span> spans) =
                Run(seed, 4096, disk => new FlushDroppingDevice(disk, keepEvery: 3));
            CrashStates states = new(disk.Initial, disk.Log, seed, 300);
            while (states.Next())
            {
                if (Judge(states.State, spans, states.Time, ref usable) is not null)
                    return;
            }
        }

        Assert.Fail("the judge condemns nothing");
    }

    private static (CrashDevice Disk, List<Span> Spans) Run(
        ulong seed, int clusterSize, Func<BlockDevice, BlockDevice>? filter = null)
    {
        SeededRandom random = new(seed);
        CrashDevice disk = new();
        long size = 512 * (200L + random.Below(2000));
        Qcow2Creator.Create(disk, new Qcow2CreateOptions { Size = size, ClusterSize = clusterSize });
        BitmapWorkload work = new(random, new BitmapModel(size));
        using (Qcow2Device device = Open(disk))
        {
            for (int i = 0; i < 6; i++)
                work.Next()(device);
        }

        disk.StartRecording();
        List<Span> spans = [];
        bool written = false;
        Qcow2Device open = Open(filter?.Invoke(disk) ?? disk);
        for (int i = 0; i < Steps; i++)
        {
            bool reopen = random.Chance(10) || i == Steps - 1;
            Action<Qcow2Device> step = reopen ? _ => { } : work.Next();
            string what = reopen ? "reopen" : work.LastStep;
            BitmapModel before = reopen ? work.Model : work.Before;
            written |= !reopen && what.Split(' ')[0] is "write" or "zero" or "discard" or "resize";
            long begin = disk.Clock.Next();
            if (reopen)
            {
                open.Dispose();
                if (i < Steps - 1)
                    open = Open(filter?.Invoke(disk) ?? disk);
            }

            step(open);
            spans.Add(new Span(
                begin, disk.Clock.Next(), what, before, work.Model.Copy(), work.LastWasResize && !reopen, written));
            written &= !reopen;
        }

        return (disk, spans);
    }

    private static string? Judge(ByteImage state, List<Span> spans, long time, ref long usable)
    {
        try
        {
            PlainReader reader = new(state);
            PlainCheck check = reader.Check();
            if (check.Errors.Count > 0)
                return "metadata: " + string.Join("; ", check.Errors);
            IReadOnlyList<PlainBitmap> found = PlainBitmaps.Read(reader);
            Span now = spans.FindLast(span => span.Begin <= time) ?? spans[0];
            usable += found.Count(bitmap => !bitmap.InUse);
            string? after = Compare(found, now.After, now);
            return after is null ? null : Compare(found, now.Before, now) is null ? null : $"{now.What}: {after}";
        }
        catch (PlainReaderException e)
        {
            return e.Message;
        }
    }

    /// <summary>Bitmap by bitmap: it exists, and holds what the model says, or is in use and may be.</summary>
    private static string? Compare(IReadOnlyList<PlainBitmap> found, BitmapModel model, Span now)
    {
        if (!found.Select(bitmap => bitmap.Name).Order(StringComparer.Ordinal).SequenceEqual(model.Bitmaps.Keys))
            return $"{found.Count} bitmaps instead of {model.Bitmaps.Count}";
        foreach (PlainBitmap bitmap in found)
        {
            if (!bitmap.InUse)
            {
                if (model.Compare(bitmap) is { } wrong)
                    return wrong;
                continue;
            }

            bool mayRecord = now.Before.Bitmaps.TryGetValue(bitmap.Name, out BitmapModel.Entry? old) && old.Enabled;
            mayRecord |= now.After.Bitmaps.TryGetValue(bitmap.Name, out BitmapModel.Entry? young) && young.Enabled;
            if (!now.Resize && !(mayRecord && now.Written))
                return $"bitmap {bitmap.Name} is lost without need";
        }

        return null;
    }

    /// <summary>The engine opens what the crash left, writes to it and leaves it sound.</summary>
    private static void Recover(CrashDevice disk, SectorImage state)
    {
        CrashDevice copy = new(disk.Clock, disk.Table);
        copy.Load(state);
        using (Qcow2Device device = Open(copy))
        {
            device.Write(1000, new byte[3000]);
            device.AddBitmap("after the crash", 512, enabled: true);
            device.Write(9000, new byte[30]);
            foreach (BitmapInfo bitmap in device.Bitmaps)
            {
                if (bitmap.IsInUse)
                    device.RemoveBitmap(bitmap.Name);
            }
        }

        PlainReader reader = new(copy.Current);
        Assert.Empty(reader.Check().Errors);
        Assert.DoesNotContain(PlainBitmaps.Read(reader), bitmap => bitmap.InUse);
        PlainBitmap added = PlainBitmaps.Read(reader).Single(bitmap => bitmap.Name == "after the crash");
        Assert.Equal(1, added.Bits!.Count(bit => bit));
    }

    private static Qcow2Device Open(BlockDevice disk) => Qcow2Device.Open(disk, new FormatOpenArguments());
}
