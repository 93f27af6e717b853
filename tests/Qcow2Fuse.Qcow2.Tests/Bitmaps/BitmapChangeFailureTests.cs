// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Bitmaps;

/// <summary>
/// A change of bitmaps fails on the way, in an image whose snapshot makes it read tables: what follows is still
/// recorded, and a power cut at any later time leaves no bitmap that lies.
/// </summary>
public sealed class BitmapChangeFailureTests
{
    private const int Granule = 65536;
    private const int ChangesMax = 200;

    /// <summary>What fails, and what comes after it.</summary>
    public enum Change
    {
        Add,
        Remove,
        Disable,
        DisableAndEnable,
    }

    public static TheoryData<Change, BlockOp> Cases()
    {
        var cases = new TheoryData<Change, BlockOp>();
        foreach (Change change in Enum.GetValues<Change>())
        {
            cases.Add(change, BlockOp.Read);
            cases.Add(change, BlockOp.Write);
        }

        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_write_after_a_failed_change_is_recorded_or_its_bitmap_is_in_use(Change change, BlockOp op)
    {
        int nth = 1;
        while (FailNth(change, op, nth))
        {
            nth++;
            Assert.InRange(nth, 1, ChangesMax);
        }

        Assert.True(nth > 1, "nothing failed");
    }

    /// <summary>False when the change has no such request any more.</summary>
    private static bool FailNth(Change change, BlockOp op, int nth)
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 4 << 20 });
        var device = (Qcow2Device)image.Device;
        image.Write(0, Granule, 1);
        device.CreateSnapshot("s");
        device.AddBitmap("b", Granule, enabled: true);
        device.AddBitmap("other", Granule, enabled: false);
        image.Write(16 * Granule, Granule, 1);
        image.Faults.Fail(new FaultRule { Op = op, Nth = nth });
        bool failed = false;
        try
        {
            Run(device, change);
        }
        catch (BlockException e)
        {
            failed = true;
            Assert.Equal(BlockErrorKind.Io, e.Kind);
        }

        image.Faults.Heal();
        if (image.Faults.FailureCount == 0)
            return false;
        Assert.True(failed, $"{op} {nth} failed and nobody heard of it");
        bool isFinal = !TryGoOn(image, change);

        // A power cut now.
        foreach (PlainBitmap bitmap in PlainBitmaps.Read(image.Plain))
            Assert.True(bitmap.InUse || !bitmap.Auto, $"{op} {nth}: {bitmap.Name} records and is not in use");
        Assert.Empty(image.Plain.Check().Errors);
        bool records = device.Bitmaps.Single(static bitmap => bitmap.Name == "b").IsEnabled;
        image.Close();
        if (isFinal)
        {
            // Nothing more was written, so a bitmap that is not in use has all there is to record.
            Assert.Empty(image.Plain.Check().Errors);
            Assert.All(PlainBitmaps.Read(image.Plain), static bitmap => Assert.True(bitmap.InUse || !bitmap.Auto));
            return true;
        }

        image.ShouldPassCheck(allowLeaks: true);
        PlainBitmap stored = PlainBitmaps.Read(image.Plain).Single(static bitmap => bitmap.Name == "b");
        Assert.Equal(records, stored.Auto);
        int[] expected = records ? [16, 32] : [16];
        Assert.False(stored.InUse);
        Assert.Equal(expected, Enumerable.Range(0, stored.Bits!.Length).Where(i => stored.Bits[i]));
        image.Reopen().ShouldRead(0, Granule, 1).ShouldRead(32 * Granule, Granule, 2);
        return true;
    }

    /// <summary>
    /// Writes what has to be recorded; false where the failure was final, as one that leaves the header unknown is.
    /// </summary>
    private static bool TryGoOn(TestImage image, Change change)
    {
        try
        {
            if (change == Change.DisableAndEnable)
                ((Qcow2Device)image.Device).EnableBitmap("b");
            image.Write(32 * Granule, Granule, 2).Device.Flush();
            return true;
        }
        catch (BlockException)
        {
            Assert.Throws<BlockException>(image.Device.Flush);
            return false;
        }
    }

    private static void Run(Qcow2Device device, Change change)
    {
        switch (change)
        {
            case Change.Add:
                device.AddBitmap("c", Granule, enabled: true);
                break;
            case Change.Remove:
                device.RemoveBitmap("other");
                break;
            default:
                device.DisableBitmap("b");
                break;
        }
    }
}
