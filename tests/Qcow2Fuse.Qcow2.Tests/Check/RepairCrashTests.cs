// SPDX-License-Identifier: MIT
using System.Security.Cryptography;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Check;

/// <summary>
/// Power cuts during a repair. Whatever they leave, the disk holds what it held, and the repair can be done again.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class RepairCrashTests
{
    private const int StatesPerImage = 60;

    [SkippableTheory]
    [InlineData("plain", false)]
    [InlineData("plain", true)]
    [InlineData("512", true)]
    [InlineData("snapshots", false)]
    [InlineData("bits4", true)]
    [InlineData("extended", false)]
    public void A_repair_of_a_dirty_image_can_be_cut_off(string kind, bool withoutBlocks)
    {
        QemuTools.RequireTool("qemu-img");
        for (ulong seed = 0; seed < 2; seed++)
        {
            DamagedImage image = RepairTests.Scrambled(QemuImages.Get(kind), new SeededRandom(seed));
            for (int i = 0; withoutBlocks && i < image.ClusterSize / 8; i++)
                image.Poke(image.RefcountEntryAt(i), 0);
            int unfinished = 0;
            CutOff(image, ImageRepair.Dirty, seed, state =>
            {
                bool dirty = new DamagedImage(state).Header.Dirty;
                unfinished += dirty ? 1 : 0;
                Assert.True(dirty || new DamagedImage(state).Check().IsClean, "not dirty, and not clean");
            });
            Assert.InRange(unfinished, StatesPerImage / 10, StatesPerImage);
        }
    }

    [SkippableTheory]
    [InlineData("plain")]
    [InlineData("snapshots")]
    [InlineData("bits8")]
    [InlineData("compressed")]
    public void Giving_leaks_back_can_be_cut_off(string kind)
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get(kind));
        for (long host = 0; host < image.End; host += image.ClusterSize)
            image.SetRefcount(host, image.GetRefcount(host) + (ulong)(host / image.ClusterSize % 3));
        image.Clear(image.L1At(0), DamagedImage.Copied);
        CutOff(image, ImageRepair.Leaks, 5, static state =>
        {
            // Nothing is handed out that is in use.
            Assert.DoesNotContain(
                new DamagedImage(state).Check().Findings,
                static finding => finding.Kind is not (FindingKind.Leak or FindingKind.CopiedFlag));
        });
    }

    /// <summary>A request that fails leaves what a power cut leaves.</summary>
    [SkippableFact]
    public void A_repair_that_fails_can_be_done_again()
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = RepairTests.Scrambled(QemuImages.Get("plain"), new SeededRandom(1));
        int failed = 0;
        for (int nth = 1; ; nth++, failed++)
        {
            CrashDevice disk = new();
            disk.Load(image.Bytes);
            using FaultyDevice faults = new(disk);
            faults.Fail(new FaultRule { Op = BlockOp.Write, Error = BlockErrorKind.NoSpace, Nth = nth });
            try
            {
                ImageRepair.Dirty(faults);
                break;
            }
            catch (BlockException failure)
            {
                Assert.Equal(BlockErrorKind.NoSpace, failure.Kind);
            }

            DamagedImage left = new(disk.Current.ToArray());
            Assert.True(left.Header.Dirty);
            Assert.Equal(image.Plain.ReadAll(), left.Plain.ReadAll());
            ImageRepair.Dirty(disk);
            RepairTests.ShouldBeRight(image, new DamagedImage(disk.Current.ToArray()));
        }

        Assert.InRange(failed, 3, 1000);
    }

    private static void CutOff(
        DamagedImage image, Func<BlockDevice, RepairResult> repair, ulong seed, Action<byte[]> judge)
    {
        CrashDevice disk = new();
        disk.Load(image.Bytes);
        Assert.True(repair(disk).After.IsClean);
        byte[] expected = ReadUsed(image.Plain);
        string[] snapshots = ReadSnapshots(image);
        CrashStates states = new(disk.Initial, disk.Log, seed, StatesPerImage);
        int count = 0;
        while (states.Next())
        {
            count++;
            byte[] state = states.State.ToArray();
            judge(state);
            CrashDevice again = new();
            again.Load(state);
            Assert.True(repair(again).After.IsClean, states.Describe());
            DamagedImage repaired = new(again.Current.ToArray());
            PlainCheck check = repaired.Plain.Check();
            Assert.True(check.Errors.Count == 0 && check.Leaks == 0, states.Describe());
            Assert.True(expected.AsSpan().SequenceEqual(ReadUsed(new DamagedImage(state).Plain)), states.Describe());
            Assert.True(expected.AsSpan().SequenceEqual(ReadUsed(repaired.Plain)), states.Describe());
            Assert.Equal(snapshots, ReadSnapshots(repaired));
        }

        Assert.Equal(StatesPerImage, count);
    }

    private static string[] ReadSnapshots(DamagedImage image) =>
        [.. image.Plain.Snapshots().Select(snapshot => Convert.ToHexString(
            SHA256.HashData(ReadUsed(image.Plain.At(snapshot)))))];

    /// <summary>The parts of the disk in which these images hold something.</summary>
    private static byte[] ReadUsed(PlainReader reader)
    {
        byte[] bytes = new byte[(528 + 160) << 10];
        reader.Read(0, bytes.AsSpan(0, 528 << 10));
        reader.Read(2 << 20, bytes.AsSpan(528 << 10));
        return bytes;
    }
}
