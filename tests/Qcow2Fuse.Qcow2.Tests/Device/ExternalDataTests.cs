// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Device;

/// <summary>Images whose guest data lies in a file of its own.</summary>
public sealed class ExternalDataTests
{
    private const int DiskBytes = 4 << 20;

    [SkippableTheory]
    [InlineData("data_file_raw=off", false, 31)]
    [InlineData("data_file_raw=off,cluster_size=4k", false, 32)]
    [InlineData("data_file_raw=off,extended_l2=on", false, 33)]
    [InlineData("data_file_raw=off", true, 34)]
    [InlineData("data_file_raw=off,extended_l2=on,cluster_size=16k", true, 35)]
    [InlineData("data_file_raw=on", false, 36)]
    [InlineData("data_file_raw=on,cluster_size=512", false, 37)]
    [InlineData("data_file_raw=on,extended_l2=on,lazy_refcounts=on", false, 38)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Random_changes_leave_what_a_plain_array_holds(string options, bool hasBacking, int seed)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        string data = directory.File("data.raw");
        string backing = directory.File("backing.raw");
        List<string> create = ["create", "-q", "-f", "qcow2", "-o", $"data_file={data},{options}"];
        if (hasBacking)
        {
            File.WriteAllBytes(backing, Stamp.Bytes(0, DiskBytes * 3 / 4, 9));
            create.AddRange(["-b", backing, "-F", "raw"]);
        }

        QemuTools.Img([.. create, image, "4M"]);
        QemuTools.Io(image, "write -P 1 0 300k", "write -P 2 1500k 300k", "write -z 100k 60k");
        byte[] model = QemuTools.ConvertToRaw(image);
        using (Qcow2Device device = Open(image, data, hasBacking ? backing : null))
        {
            InteropTests.Change(device, model, seed);
            byte[] seen = new byte[model.Length];
            device.Read(0, seen);
            Assert.True(model.AsSpan().SequenceEqual(seen), "other bytes are read back");
        }

        QemuTools.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
        if (options.Contains("raw=on", StringComparison.Ordinal))
        {
            byte[] alone = File.ReadAllBytes(data);
            Assert.True(model.AsSpan().SequenceEqual(alone), "the data file alone is not the guest's disk");
            Assert.Contains("data file raw: true", QemuTools.Img("info", image), StringComparison.Ordinal);
        }
    }

    [SkippableTheory]
    [InlineData("cluster_size=64k")]
    [InlineData("cluster_size=64k,extended_l2=on")]
    public void Zeroing_the_last_bytes_of_a_disk_that_ends_inside_a_cluster_leaves_the_rest(string options)
    {
        const int Size = (1 << 20) + 3072;
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2"), data = directory.File("data.raw");
        string backing = directory.File("backing.raw");
        byte[] expected = Stamp.Bytes(0, 2 << 20, 9);
        File.WriteAllBytes(backing, expected);
        QemuTools.Img(
            "create", "-q", "-f", "qcow2", "-o", $"data_file={data},{options}", "-b", backing, "-F", "raw",
            image, $"{Size}");
        using (Qcow2Device device = Open(image, data, backing))
        {
            device.WriteZeroes(Size - 1, 1, mayUnmap: true);
            device.WriteZeroes((1 << 20) - 700, 701, mayUnmap: false);
        }

        expected.AsSpan(Size - 1, 1).Clear();
        expected.AsSpan((1 << 20) - 700, 701).Clear();
        Assert.True(expected.AsSpan(0, Size).SequenceEqual(QemuTools.ConvertToRaw(image)), "QEMU reads other bytes");
        QemuTools.ShouldPassCheck(image);
    }

    [SkippableFact]
    public void A_raw_data_file_grows_with_the_disk()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        string data = directory.File("data.raw");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"data_file={data},data_file_raw=on", image, "1M");
        using (Qcow2Device device = Open(image, data, null))
        {
            device.Resize(3 << 20);
            device.Write((2 << 20) + 100, Stamp.Bytes(0, 1000, 3));
        }

        QemuTools.ShouldPassCheck(image);
        Assert.Equal(3 << 20, new FileInfo(data).Length);

        // QEMU maps the whole of such a disk, and so is the new part.
        Assert.DoesNotContain("\"data\": false", QemuTools.Img("map", "--output=json", image),
            StringComparison.Ordinal);
        foreach (int at in (int[])[1 << 20, (3 << 20) - 65536])
            Assert.NotEqual(0UL, new PlainReader(new FileImage(image), dataFile: new FileImage(data)).Locate(at).Entry);
        Assert.True(QemuTools.ConvertToRaw(image).AsSpan().SequenceEqual(File.ReadAllBytes(data)));
    }

    [SkippableFact]
    public void A_punched_hole_gives_the_space_back_and_changes_no_metadata()
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        string data = directory.File("data.raw");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"data_file={data}", image, "4M");
        using (Qcow2Device device = Open(image, data, null))
            device.Write(0, Stamp.Bytes(0, 2 << 20, 3));
        byte[] before = File.ReadAllBytes(image);
        using FileDevice file = FileDevice.Open(data, readOnly: true);
        long allocated = file.AllocatedBytes;
        using (Qcow2Device device = Open(image, data, null))
        {
            device.WriteZeroes(100_000, 1 << 20, mayUnmap: true);
            byte[] seen = new byte[1 << 20];
            device.Read(100_000, seen);
            Assert.Equal(-1, seen.AsSpan().IndexOfAnyExcept((byte)0));
            Assert.Equal(ExtentKind.Zero, device.GetExtent(200_000, 1000).Kind);
        }

        Assert.True(file.AllocatedBytes <= allocated - (900 << 10), "the host got nothing back");
        Assert.Equal(before, File.ReadAllBytes(image));
    }

    /// <summary>
    /// Whoever reads the data file alone knows nothing of entries that say zero, or of none, over bytes that another
    /// program has left there.
    /// </summary>
    [SkippableTheory]
    [InlineData("zeroes")]
    [InlineData("unmapped zeroes")]
    [InlineData("discard")]
    [InlineData("written")]
    public void Zeroes_reach_a_raw_data_file_whatever_the_tables_say(string way)
    {
        const int Start = (1 << 20) + 700;
        const int Length = (1 << 20) - 3000;
        QemuTools.RequireTool("qemu-io");
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        string data = directory.File("data.raw");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"data_file={data},data_file_raw=on", image, "8M");
        QemuTools.Io(image, "write -P 17 0 4M", "discard 1M 1M");
        byte[] expected = File.ReadAllBytes(data);
        expected.AsSpan(1 << 20, 1 << 20).Fill(17);
        File.WriteAllBytes(data, expected);
        using (Qcow2Device device = Open(image, data, null))
        {
            switch (way)
            {
                case "discard":
                    device.Discard(Start, Length);
                    break;
                case "written":
                    device.Write(Start, new byte[Length]);
                    break;
                default:
                    device.WriteZeroes(Start, Length, mayUnmap: way != "zeroes");
                    break;
            }
        }

        expected.AsSpan(Start, Length).Clear();
        byte[] alone = File.ReadAllBytes(data);
        if (way == "written")
        {
            // The edges of its clusters are written with it: they read as zeroes.
            expected.AsSpan(1 << 20, 1 << 20).Clear();
        }

        int same = expected.AsSpan().CommonPrefixLength(alone);
        Assert.True(same == expected.Length, $"byte {same} of the data file is not what the guest sees");
        QemuTools.ShouldPassCheck(image);
    }

    /// <summary>Data is durable in its file before an entry in the image makes it visible.</summary>
    [SkippableFact]
    public void The_data_file_is_flushed_before_an_entry_is_written()
    {
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        string data = directory.File("data.raw");
        QemuTools.RequireTool("qemu-img");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"data_file={data}", image, "4M");
        List<string> events = [];
        using (Qcow2Device device = Qcow2Device.Open(
            new Told("image", FileDevice.Open(image, readOnly: false), events),
            new FormatOpenArguments { DataFile = new Told("data", FileDevice.Open(data, readOnly: false), events) }))
        {
            device.Write(0, Stamp.Bytes(0, 65536, 3));
            device.Flush();
            events.Clear();
            device.Write(65536, Stamp.Bytes(0, 65536, 3));
            device.Flush();
            Assert.Equal(["data write", "data flush", "image flush", "image write", "image flush"], events);
        }
    }

    private static Qcow2Device Open(string image, string data, string? backing) => Qcow2Device.Open(
        FileDevice.Open(image, readOnly: false),
        new FormatOpenArguments
        {
            DataFile = FileDevice.Open(data, readOnly: false),
            Backing = backing is null ? null : FileDevice.Open(backing, readOnly: true),
        });

    private sealed class Told(string name, BlockDevice child, List<string> events) : PassThroughDevice(child)
    {
        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            events.Add($"{name} write");
            base.Write(offset, source);
        }

        public override void Flush()
        {
            events.Add($"{name} flush");
            base.Flush();
        }

        protected override void Dispose(bool disposing)
        {
            Child.Dispose();
            base.Dispose(disposing);
        }
    }
}
