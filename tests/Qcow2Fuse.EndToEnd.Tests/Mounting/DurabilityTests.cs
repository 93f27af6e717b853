// SPDX-License-Identifier: MIT
using System.Diagnostics.CodeAnalysis;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The cells of the table in docs/durability.md: which write survives which end.</summary>
public sealed class DurabilityTests : MountTest
{
    private const int Length = 256 << 10;
    private const int PartitionStart = 1 << 20;
    private const int Place = 2 << 20;

    /// <summary>Writes 256 KiB into a file in one of several ways, and perhaps calls fsync.</summary>
    private const string Script = """
        import mmap, os, sys
        path, way, place, syncs = sys.argv[1:]
        place, data = int(place), mmap.mmap(-1, 256 << 10)
        data[:] = b'D' * len(data)
        file = os.open(path, os.O_RDWR | (os.O_DIRECT if way == 'direct' else 0))
        if way == 'mapped':
            stored = mmap.mmap(file, len(data), offset=place)
            stored[:] = data[:]
            if syncs == 'fsync': stored.flush()
        else:
            assert os.pwritev(file, [data], place) == len(data)
        if syncs == 'fsync': os.fsync(file)
        """;

    /// <summary>Ways to write: the file, how it is written, and the options of the mount.</summary>
    [SuppressMessage("Usage", "CA2211", Justification = "xunit reads it.")]
    public static readonly TheoryData<string, string, string> Ways = new()
    {
        { ".raw", "plain", "" },
        { ".raw", "direct", "" },
        { ".raw", "mapped", "" },
        { ".p1.raw", "plain", "" },
        { ".p1.raw", "mapped", "" },
        { ".raw", "plain", "sync" },
        { ".raw", "plain", "compress" },
        { ".raw", "mapped", "compress" },
        { ".raw", "plain", "cache=none" },
        { ".raw", "direct", "cache=none" },
        { ".raw", "plain", "cache=writethrough" },
        { ".raw", "direct", "cache=directsync" },
        { ".raw", "direct", "transport=uring" },
    };

    [SkippableTheory]
    [MemberData(nameof(Ways))]
    public void After_fsync_it_survives_the_death_of_the_daemon(string file, string way, string options)
    {
        string raw = MountWithPartition(options);
        Write(raw, file, way, syncs: true);
        Kill();
        ShouldBeThere(file);
    }

    [SkippableTheory]
    [InlineData(".raw", "plain", "cache=writethrough")]
    [InlineData(".raw", "direct", "cache=writethrough")]
    [InlineData(".raw", "direct", "cache=directsync")]
    [InlineData(".p1.raw", "plain", "cache=directsync")]
    [InlineData(".raw", "plain", "sync")]
    [InlineData(".p1.raw", "plain", "sync,compress")]
    public void It_survives_without_fsync_where_the_mount_says_so(string file, string way, string options)
    {
        string raw = MountWithPartition(options);
        Write(raw, file, way, syncs: false);
        Kill();
        ShouldBeThere(file);
    }

    [SkippableTheory]
    [MemberData(nameof(Ways))]
    [Trait(Speed.Name, Speed.Slow)]
    public void It_survives_an_unmount(string file, string way, string options)
    {
        string raw = MountWithPartition(options);
        Write(raw, file, way, syncs: false);
        Unmount(PathOf("mnt"));
        ShouldBeThere(file);
    }

    [SkippableTheory]
    [MemberData(nameof(Ways))]
    [Trait(Speed.Name, Speed.Slow)]
    public void It_survives_a_clean_stop(string file, string way, string options)
    {
        string raw = MountWithPartition(options);
        Write(raw, file, way, syncs: false);
        int daemon = Assert.Single(DaemonsOf(PathOf("mnt")));
        Signal(daemon, "TERM");
        WaitForEnd(daemon);
        ShouldBeThere(file);
    }

    /// <summary>A raw disk that ends inside a block of its file does not grow by being written to its end.</summary>
    [SkippableTheory]
    [InlineData("cache=none")]
    [InlineData("cache=directsync")]
    [InlineData("cache=writeback")]
    public void A_raw_disk_of_odd_size_keeps_it(string cache)
    {
        const int size = (1 << 20) + 1234;
        string image = PathOf("odd.img");
        byte[] content = Stamp.Bytes(0, size, 3);
        File.WriteAllBytes(image, new byte[size]);
        string raw = Mount(image, NewMountPoint(), "-o", "format=raw," + cache);
        using (FileStream file = File.OpenWrite(raw))
        {
            file.Write(content);
            file.Flush(flushToDisk: true);
        }

        Kill();
        Assert.Equal(content, File.ReadAllBytes(image));
    }

    private static void Write(string raw, string file, string way, bool syncs) => Tool(
        "python3", "-c", Script, Path.ChangeExtension(raw, null) + file, way,
        (file == ".raw" ? Place : Place - PartitionStart).ToString(System.Globalization.CultureInfo.InvariantCulture),
        syncs ? "fsync" : "");

    private string MountWithPartition(string options)
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Tool("sh", "-c", $"printf 'label: dos\\nstart=1MiB\\n' | sfdisk -q {raw}");
        Unmount(mountPoint);
        return options.Contains("uring", StringComparison.Ordinal) ? MountOverUring(image, mountPoint, options)
            : options.Length == 0 ? Mount(image, mountPoint) : Mount(image, mountPoint, "-o", options);
    }

    private void Kill()
    {
        string mountPoint = PathOf("mnt");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Signal(daemon, "KILL");
        WaitForEnd(daemon);
        Tool("umount", "-l", mountPoint);
    }

    private void ShouldBeThere(string file)
    {
        string image = PathOf("disk.qcow2");
        QemuTools.ShouldPassCheck(image, allowLeaks: true);
        QemuTools.Img("convert", "-O", "raw", image, PathOf("flat"));
        using FileStream flat = File.OpenRead(PathOf("flat"));
        flat.Position = Place;
        byte[] found = new byte[Length];
        flat.ReadExactly(found);
        Assert.True(found.AsSpan().IndexOfAnyExcept((byte)'D') < 0, $"{file}: what was written is gone");
    }
}
