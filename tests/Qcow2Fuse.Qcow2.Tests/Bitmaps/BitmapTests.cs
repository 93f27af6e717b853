// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Bitmaps;

/// <summary>Persistent bitmaps against a model of bit arrays, and against QEMU in both directions.</summary>
public sealed class BitmapTests
{
    [Theory]
    [InlineData(512)]
    [InlineData(4096)]
    [InlineData(65536)]
    [InlineData(2 << 20)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Random_operations_leave_what_the_model_holds(int clusterSize)
    {
        for (ulong seed = 1; seed <= 12; seed++)
        {
            SeededRandom random = new(seed + (ulong)clusterSize);
            long size = 512 * (1000L + random.Below(5000));
            using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = size, ClusterSize = clusterSize });
            BitmapWorkload work = new(random, new BitmapModel(size));
            List<string> steps = [];
            for (int i = 0; i < 60; i++)
            {
                work.Next()((Qcow2Device)image.Device);
                steps.Add(work.LastStep);
                if (!random.Chance(8) && i < 59)
                    continue;
                image.Close();
                string? wrong = work.Model.Compare(PlainBitmaps.Read(image.Plain));
                Assert.True(wrong is null, $"seed {seed}: {wrong} after\n{string.Join('\n', steps)}");
                PlainCheck check = image.Plain.Check();
                Assert.True(check.Errors.Count == 0 && check.Leaks == 0,
                    $"seed {seed}: {check.Leaks} leaks, {string.Join("; ", check.Errors)} after {steps[^1]}");
                image.Reopen();
                steps.Add("reopen");
            }

            image.ShouldPassCheck();
        }
    }

    [SkippableTheory]
    [InlineData("cluster_size=512", 1000 * 1024)]
    [InlineData("cluster_size=4k", (5 << 20) + 512)]
    [InlineData("cluster_size=64k", 20 << 20)]
    [InlineData("extended_l2=on", 20 << 20)]
    [InlineData("cluster_size=2M,refcount_bits=16", 20 << 20)]
    public void Bitmaps_of_QEMU_record_what_is_written_here_and_QEMU_agrees(string options, int size)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        string bytes = size.ToString(System.Globalization.CultureInfo.InvariantCulture);
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, image, bytes);
        BitmapModel model = new(size);
        QemuTools.Img("bitmap", "--add", "-g", "512", image, "fine");
        QemuTools.Img("bitmap", "--add", image, "usual");
        QemuTools.Io(image, "write -P 1 100k 5k", "write -P 2 700k 512", "write -z 300k 10k", "discard 500k 64k");
        QemuTools.Img("bitmap", "--disable", image, "usual");
        foreach (PlainBitmap made in Read(image))
        {
            model.Add(made.Name, made.GranularityBits, made.Auto);
            made.Bits!.CopyTo(model.Bitmaps[made.Name].Bits, 0);
            Assert.Contains(true, made.Bits!);
        }

        BitmapWorkload work = new(new SeededRandom((ulong)size), model) { MayResize = false };
        using (Qcow2Device device = Open(image))
        {
            Assert.Equal(
                ["fine 512 True", $"usual {device.DefaultBitmapGranularity} False"],
                device.Bitmaps.Select(bitmap => $"{bitmap.Name} {bitmap.Granularity} {bitmap.IsEnabled}"));
            for (int i = 0; i < 150; i++)
                work.Next()(device);
        }

        Assert.Null(work.Model.Compare(Read(image)));
        QemuTools.ShouldPassCheck(image);

        // QEMU reads them as we stored them: it merges each into one of its own, and a write of its own is in it.
        foreach (string name in work.Model.Bitmaps.Keys.ToArray())
        {
            QemuTools.Img("bitmap", "--add", "--disable", "-g", "512", "--merge", name, image, "copy of " + name);
            work.Model.Add("copy of " + name, 9, enabled: false);
            work.Model.Merge(name, "copy of " + name);
        }

        QemuTools.Io(image, "write -P 3 600k 1k");
        work.Model.Write(600 << 10, 1 << 10);
        Assert.Null(work.Model.Compare(Read(image)));
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableFact]
    public void Growing_gives_what_it_gives_in_QEMU()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string ours = directory.File("ours.qcow2"), theirs = directory.File("theirs.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", ours, "1000k");
        QemuTools.Img("bitmap", "--add", ours, "auto");
        QemuTools.Img("bitmap", "--add", ours, "other");
        QemuTools.Io(ours, "write 0 64k", "write 990k 10k");
        QemuTools.Img("bitmap", "--disable", ours, "other");
        File.Copy(ours, theirs);
        QemuTools.Img("resize", "-q", theirs, "300M");
        using (Qcow2Device device = Open(ours))
            device.Resize(300 << 20);
        QemuTools.ShouldPassCheck(ours);
        Assert.Equal(
            Read(theirs).Select(bitmap => (bitmap.Name, bitmap.Flags, string.Join(',', bitmap.Bits!))),
            Read(ours).Select(bitmap => (bitmap.Name, bitmap.Flags, string.Join(',', bitmap.Bits!))));
    }

    [Fact]
    public void Writers_in_many_threads_and_operations_at_the_same_time_lose_no_mark()
    {
        const int Size = 8 << 20;
        for (ulong seed = 1; seed <= 4; seed++)
        {
            using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = Size, ClusterSize = 4096 });
            Qcow2Device device = (Qcow2Device)image.Device;
            device.AddBitmap("always", 512, enabled: true);
            bool[] written = new bool[Size / 512];
            bool[] later = new bool[Size / 512];
            bool laterExists = false, stop = false;
            Thread[] writers = new Thread[4];
            for (int i = 0; i < writers.Length; i++)
            {
                SeededRandom random = new((seed * 100) + (ulong)i);
                writers[i] = new Thread(() =>
                {
                    byte[] data = new byte[20_000];
                    while (!Volatile.Read(ref stop))
                    {
                        int length = 1 + random.Below(data.Length), offset = random.Below(Size - length);
                        bool counts = Volatile.Read(ref laterExists);
                        int kind = random.Below(6);
                        if (kind == 0)
                            device.WriteZeroes(offset, length, mayUnmap: true);
                        else if (kind == 1)
                            device.Discard(offset, length);
                        else
                            device.Write(offset, data.AsSpan(0, length));
                        for (int at = offset / 512; at * 512 < offset + length; at++)
                        {
                            written[at] = true;
                            later[at] |= counts;
                        }
                    }
                });
                writers[i].Start();
            }

            for (int i = 0; i < 30; i++)
            {
                device.AddBitmap("x", 1024, enabled: i % 2 == 0);
                device.MergeBitmap("always", "x");
                device.EnableBitmap("x");
                device.ClearBitmap("x");
                device.DisableBitmap("x");
                device.Flush();
                device.RemoveBitmap("x");
            }

            device.AddBitmap("later", 512, enabled: true);
            Volatile.Write(ref laterExists, true);
            Eventually.Holds(() => Array.IndexOf(later, true) >= 0);
            Volatile.Write(ref stop, true);
            Assert.All(writers, Eventually.Ends);
            image.Close();
            IReadOnlyList<PlainBitmap> bitmaps = PlainBitmaps.Read(image.Plain);
            Assert.Equal(["always", "later"], bitmaps.Select(bitmap => bitmap.Name));
            Assert.Equal(written, bitmaps[0].Bits);
            for (int i = 0; i < later.Length; i++)
                Assert.True(!later[i] || bitmaps[1].Bits![i], $"granule {i} was written and is not marked");
            image.Reopen().ShouldPassCheck();
        }
    }

    [Fact]
    public void A_bitmap_in_use_stays_so_and_can_only_be_removed()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 4 << 20 });
        Qcow2Device device = (Qcow2Device)image.Device;
        device.AddBitmap("lost", 65536, enabled: true);
        device.AddBitmap("kept", 65536, enabled: false);
        image.Write(0, 1000, 1).Device.Flush();
        byte[] crashed = image.Disk.Current.ToArray();

        using TestImage after = TestImage.Load(new ArrayImage(crashed));
        device = (Qcow2Device)after.Device;
        Assert.Equal([true, false], device.Bitmaps.Select(bitmap => bitmap.IsInUse));
        after.Write(70000, 1000, 2).Reopen();
        device = (Qcow2Device)after.Device;
        Assert.Equal([true, false], device.Bitmaps.Select(bitmap => bitmap.IsInUse));
        foreach (Action refused in (Action[])
        [
            () => device.ClearBitmap("lost"), () => device.EnableBitmap("lost"), () => device.DisableBitmap("lost"),
            () => device.MergeBitmap("lost", "kept"), () => device.MergeBitmap("kept", "lost"),
            () => device.Resize(8 << 20),
        ])
        {
            BlockException e = Assert.Throws<BlockException>(refused);
            Assert.Contains("'lost'", e.Message, StringComparison.Ordinal);
        }

        Assert.Equal(4 << 20, device.Length);
        device.RemoveBitmap("lost");
        device.Resize(8 << 20);
        after.Reopen().ShouldPassCheck(allowLeaks: true).Close();
        Assert.Equal([false], PlainBitmaps.Read(after.Plain).Select(bitmap => bitmap.InUse));
    }

    [Fact]
    public void Operations_that_make_no_sense_are_refused_in_one_line()
    {
        using TestImage image = TestImage.Create(new Qcow2CreateOptions { Size = 4 << 20 });
        Qcow2Device device = (Qcow2Device)image.Device;
        device.AddBitmap("a", 0, enabled: true);
        Assert.Equal(65536, device.Bitmaps[0].Granularity);
        byte[] before = image.Disk.Current.ToArray();
        foreach (Action refused in (Action[])
        [
            () => device.AddBitmap("a", 512, enabled: true), () => device.AddBitmap("", 512, enabled: true),
            () => device.AddBitmap(new string('n', 1024), 512, enabled: true),
            () => device.AddBitmap("b", 256, enabled: true), () => device.AddBitmap("b", 3000, enabled: true),
            () => device.AddBitmap("b", 1L << 32, enabled: true), () => device.AddBitmap("b", -512, enabled: true),
            () => device.RemoveBitmap("b"), () => device.ClearBitmap("b"), () => device.EnableBitmap("b"),
            () => device.DisableBitmap("b"), () => device.MergeBitmap("b", "a"), () => device.MergeBitmap("a", "b"),
        ])
        {
            BlockException e = Assert.Throws<BlockException>(refused);
            Assert.DoesNotContain('\n', e.Message);
        }

        Assert.Equal(before, image.Disk.Current.ToArray());
        using TestImage old = TestImage.Create(version: 2, clusterSize: 65536, extendedL2: false);
        Assert.Throws<BlockException>(() => ((Qcow2Device)old.Device).AddBitmap("a", 0, enabled: true));
        old.ShouldPassCheck();
    }

    private static IReadOnlyList<PlainBitmap> Read(string path)
    {
        using FileImage file = new(path);
        return PlainBitmaps.Read(new PlainReader(file));
    }

    private static Qcow2Device Open(string path) =>
        Qcow2Device.Open(FileDevice.Open(path, readOnly: false), new FormatOpenArguments());
}
