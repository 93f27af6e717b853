// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Oracle;

/// <summary>The plain reader sees what QEMU sees, on images QEMU made.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class PlainReaderTests : IDisposable
{
    private readonly TempDirectory _directory = new();

    public static TheoryData<string, int> WrittenImages => new()
    {
        { "compat=0.10,cluster_size=512", 1 << 20 },
        { "compat=0.10,cluster_size=65536", 4 << 20 },
        { "compat=1.1,cluster_size=512", 1 << 20 },
        { "compat=1.1,cluster_size=4096", 4 << 20 },
        { "compat=1.1,cluster_size=65536", 8 << 20 },
        { "compat=1.1,cluster_size=2M", 16 << 20 },
        { "compat=1.1,cluster_size=16384,extended_l2=on", 4 << 20 },
        { "compat=1.1,cluster_size=65536,extended_l2=on", 8 << 20 },
        { "compat=1.1,cluster_size=2M,extended_l2=on", 16 << 20 },
        { "compat=1.1,refcount_bits=1", 4 << 20 },
        { "compat=1.1,refcount_bits=4", 4 << 20 },
        { "compat=1.1,refcount_bits=8", 4 << 20 },
        { "compat=1.1,refcount_bits=64", 4 << 20 },
        { "compat=1.1,preallocation=metadata", 4 << 20 },
    };

    public void Dispose() => _directory.Dispose();

    [SkippableTheory]
    [MemberData(nameof(WrittenImages))]
    public void Images_written_by_qemu_io_read_the_same(string options, int size)
    {
        QemuTools.RequireTool("qemu-io");
        string image = Create("written.qcow2", options, size);
        QemuTools.Io(image, Scribbles(size));
        ShouldAgree(image);
    }

    [SkippableTheory]
    [InlineData("compression_type=zlib,cluster_size=512")]
    [InlineData("compression_type=zlib,cluster_size=65536")]
    [InlineData("compression_type=zlib,cluster_size=2M")]
    [InlineData("compression_type=zstd,cluster_size=4096")]
    [InlineData("compression_type=zstd,cluster_size=65536")]
    [InlineData("compression_type=zstd,cluster_size=65536,extended_l2=on")]
    public void Compressed_images_read_the_same(string options)
    {
        QemuTools.RequireTool("qemu-img");
        byte[] content = Text(3 << 20);
        string raw = _directory.File("plain.raw"), image = _directory.File("packed.qcow2");
        File.WriteAllBytes(raw, content);
        QemuTools.Img("convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options, raw, image);
        using (FileImage file = new(image))
        {
            PlainReader reader = new(file);
            Assert.Equal(PlaceKind.Compressed, reader.Locate(0).Kind);
            Assert.True(content.AsSpan().SequenceEqual(reader.ReadAll().AsSpan(0, content.Length)));
        }

        QemuTools.Io(image, "write -P 9 100000 3000", "discard 1M 128k");
        ShouldAgree(image);
    }

    [SkippableTheory]
    [InlineData(1 << 20)]
    [InlineData((3 << 20) + 700)]
    public void Overlays_show_their_backing_file(int backingLength)
    {
        QemuTools.RequireTool("qemu-io");
        byte[] backing = Stamp.Bytes(0, backingLength, 5);
        File.WriteAllBytes(_directory.File("base.raw"), backing);
        string image = _directory.File("overlay.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=64k",
            "-b", "base.raw", "-F", "raw", image, "2M");
        QemuTools.Io(image, "write -P 3 10000 5000", "write -z 300k 70k", "discard 512k 64k");
        ShouldAgree(image, new ArrayImage(backing));
        using FileImage file = new(image);
        Assert.Equal("base.raw", new PlainReader(file).Header.BackingFile);
        Assert.Equal("raw", new PlainReader(file).Header.BackingFormat);
    }

    [SkippableFact]
    public void External_data_files_are_read()
    {
        QemuTools.RequireTool("qemu-io");
        string image = _directory.File("meta.qcow2"), data = _directory.File("data.raw");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", $"data_file={data}", image, "4M");
        QemuTools.Io(image, "write -P 1 0 64k", "write -P 2 1M 200k", "write -z 2M 64k");
        using FileImage dataFile = new(data);
        ShouldAgree(image, dataFile: dataFile);
    }

    [SkippableFact]
    public void Snapshots_show_the_disk_as_it_was()
    {
        QemuTools.RequireTool("qemu-io");
        string image = Create("snapshots.qcow2", "compat=1.1", 2 << 20);
        QemuTools.Io(image, "write -P 1 0 256k");
        QemuTools.Img("snapshot", "-c", "first", image);
        QemuTools.Io(image, "write -P 2 128k 256k", "discard 0 64k");
        QemuTools.Img("snapshot", "-c", "second", image);
        QemuTools.Io(image, "write -P 3 0 64k");
        ShouldAgree(image);

        using FileImage file = new(image);
        PlainReader reader = new(file);
        IReadOnlyList<PlainSnapshot> snapshots = reader.Snapshots();
        Assert.Equal(["first", "second"], snapshots.Select(snapshot => snapshot.Name));
        foreach (PlainSnapshot snapshot in snapshots)
        {
            string raw = _directory.File(snapshot.Name + ".raw");
            QemuTools.Img("convert", "-f", "qcow2", "-O", "raw", "-l", snapshot.Name, image, raw);
            Assert.True(File.ReadAllBytes(raw).AsSpan().SequenceEqual(reader.At(snapshot).ReadAll()));
        }
    }

    [SkippableFact]
    public void Bitmaps_are_not_leaks()
    {
        QemuTools.RequireTool("qemu-img");
        string image = Create("bitmaps.qcow2", "compat=1.1", 4 << 20);
        QemuTools.Img("bitmap", "--add", image, "one");
        QemuTools.Img("bitmap", "--add", image, "two");
        QemuTools.Io(image, "write -P 1 0 1M");
        ShouldAgree(image);
    }

    private static byte[] Text(int length)
    {
        byte[] text = new byte[length];
        SeededRandom random = new(11);
        for (int i = 0; i < length; i++)
            text[i] = (byte)("abcdefgh"[random.Below(8)] + (i >> 17));
        return text;
    }

    private static string[] Scribbles(int size)
    {
        SeededRandom random = new((ulong)size);
        string[] commands = new string[40];
        for (int i = 0; i < commands.Length; i++)
        {
            long offset = random.Below(size / 512) * 512L;
            long length = Math.Min(512 * (1 + random.Below(200)), size - offset);
            string verb = random.Pick("write -P 0x" + (i + 1).ToString("x", CultureInfo.InvariantCulture),
                "write -P 0xaa", "write -z", "write -z -u", "discard");
            commands[i] = string.Create(CultureInfo.InvariantCulture, $"{verb} {offset} {length}");
        }

        return commands;
    }

    private string Create(string name, string options, int size)
    {
        QemuTools.RequireTool("qemu-img");
        string image = _directory.File(name);
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, image,
            size.ToString(CultureInfo.InvariantCulture));
        return image;
    }

    private static void ShouldAgree(string image, ByteImage? backing = null, ByteImage? dataFile = null)
    {
        QemuTools.ShouldPassCheck(image);
        using FileImage file = new(image);
        PlainReader reader = new(file, backing, dataFile);
        PlainCheck check = reader.Check();
        Assert.Empty(check.Errors);
        Assert.Equal(0, check.Leaks);
        byte[] theirs = QemuTools.ConvertToRaw(image), ours = reader.ReadAll();
        Assert.Equal(theirs.Length, ours.Length);
        Assert.Equal(theirs.Length, ours.AsSpan().CommonPrefixLength(theirs));
    }
}
