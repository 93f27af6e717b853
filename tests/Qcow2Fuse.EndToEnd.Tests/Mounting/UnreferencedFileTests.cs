// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>The file of the clusters that no table refers to.</summary>
public sealed class UnreferencedFileTests : MountTest
{
    private const int Cluster = 65536;

    [SkippableTheory]
    [InlineData("-o", "ro")]
    [InlineData("-o", "rw")]
    public void Lost_clusters_are_found_in_their_places(params string[] options)
    {
        string image = NewImage("8M");
        QemuTools.Io(image, "write -P 1 0 1M", "write -P 2 2M 1M");
        QemuTools.Img("snapshot", "-c", "one", image);
        QemuTools.Io(image, "write -P 3 2M 512k");
        long lost = Lose(image, 2 << 20);
        byte[] expected = Unreferenced(image);
        Assert.Equal(Enumerable.Repeat((byte)3, Cluster), expected.AsSpan((int)lost, Cluster).ToArray());
        string raw = Mount(image, NewMountPoint(), options);
        string shown = FileOf(raw);
        Assert.Equal(expected.Length, new FileInfo(shown).Length);
        Assert.Equal(expected, File.ReadAllBytes(shown));
        Tool("cp", "--sparse=always", shown, PathOf("always"));
        Tool("cp", shown, PathOf("auto"));
        Assert.Equal(expected, File.ReadAllBytes(PathOf("always")));
        Assert.Equal(expected, File.ReadAllBytes(PathOf("auto")));
        Assert.InRange(BlocksOf(PathOf("auto")), 1, 2 * Cluster / 512);
        Assert.NotEqual(0, TryTool("dd", "if=/dev/zero", $"of={shown}", "count=1", "conv=notrunc").ExitCode);
    }

    [SkippableFact]
    public void An_image_without_lost_clusters_has_a_file_of_zeroes()
    {
        string image = NewImage("8M");
        QemuTools.Io(image, "write -P 1 0 1M");
        Assert.False(Unreferenced(image).AsSpan().ContainsAnyExcept((byte)0));
        string shown = FileOf(Mount(image));
        byte[] content = File.ReadAllBytes(shown);
        Assert.Equal((new FileInfo(image).Length + Cluster - 1) / Cluster * Cluster, content.Length);
        Assert.False(content.AsSpan().ContainsAnyExcept((byte)0));
        Tool("cp", shown, PathOf("copy"));
        Assert.Equal((content.Length, 0), (new FileInfo(PathOf("copy")).Length, BlocksOf(PathOf("copy"))));
    }

    [SkippableFact]
    public void What_was_discarded_is_there_until_it_is_used_again_and_the_disk_goes_on_meanwhile()
    {
        string image = NewImage("64M");
        QemuTools.Io(image, "write -P 7 0 4M");

        // The table forgets 1 MiB, whose bytes stay in the file.
        for (int cluster = 0; cluster < 16; cluster++)
            Lose(image, (1 << 20) + (cluster * Cluster));
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        using FileStream seen = File.OpenRead(FileOf(raw));
        byte[] before = new byte[seen.Length];
        seen.ReadExactly(before);
        Assert.Equal(1 << 20, before.Count(static value => value == 7));

        // Writes go on while the file is open, and are right; the clusters that they take were not among those.
        byte[] data = Stamp.Bytes(0, 8 << 20, 3);
        string source = PathOf("data");
        File.WriteAllBytes(source, data);
        Tool("dd", $"if={source}", $"of={raw}", "bs=1M", "seek=8", "conv=notrunc,fsync", "status=none");
        seen.Position = 0;
        byte[] after = new byte[before.Length];
        seen.ReadExactly(after);
        Assert.Equal(before, after);
        seen.Close();
        Unmount(mountPoint);
        Assert.True(QemuTools.ConvertToRaw(image).AsSpan(8 << 20, 8 << 20).SequenceEqual(data));
        QemuTools.ShouldPassCheck(image, allowLeaks: true);
    }

    [SkippableFact]
    public void Each_image_of_a_directory_has_its_own_and_a_raw_one_has_none()
    {
        Directory.CreateDirectory(PathOf("images"));
        string first = NewImage("4M", name: "images/a.qcow2");
        string second = NewImage("4M", name: "images/b.qcow2");
        File.WriteAllBytes(PathOf("images/c.img"), new byte[1 << 20]);
        QemuTools.Io(first, "write -P 1 0 64k");
        QemuTools.Io(second, "write -P 2 0 64k");
        Lose(first, 0);
        Lose(second, 0);
        string mountPoint = NewMountPoint();
        Run("mount", PathOf("images"), mountPoint).ShouldSucceed();
        foreach ((string name, string image) in ((string, string)[])[("a", first), ("b", second)])
        {
            string shown = Path.Combine(mountPoint, $".qcow2fuse/{name}/unreferenced.raw");
            Assert.Equal((new FileInfo(image).Length + Cluster - 1) / Cluster * Cluster, new FileInfo(shown).Length);
            Assert.Equal(Unreferenced(image), File.ReadAllBytes(shown));
        }

        string rawMount = NewMountPoint("raw");
        Run("mount", "-o", "format=raw", PathOf("images/c.img"), rawMount).ShouldSucceed();
        Assert.DoesNotContain(
            "unreferenced.raw",
            Directory.GetFileSystemEntries(Path.Combine(rawMount, ".qcow2fuse/c")).Select(Path.GetFileName));
        Assert.False(File.Exists(Path.Combine(rawMount, ".qcow2fuse/c/unreferenced.raw")));
    }

    private static string FileOf(string raw) =>
        Path.Combine(Path.GetDirectoryName(raw)!, ".qcow2fuse/disk/unreferenced.raw");

    private static long BlocksOf(string file) =>
        long.Parse(Tool("stat", "-c", "%b", file), System.Globalization.CultureInfo.InvariantCulture);

    /// <summary>The image file with zeroes where another reader finds a reference.</summary>
    private static byte[] Unreferenced(string image)
    {
        using FileImage file = new(image);
        PlainCheck check = new PlainReader(file).Check(allowStaleFlags: true);
        byte[] bytes = new byte[(file.Length + Cluster - 1) / Cluster * Cluster];
        file.ToArray().CopyTo(bytes, 0);
        for (int at = 0; at < bytes.Length; at += Cluster)
        {
            if (check.IsReferenced(at / Cluster))
                bytes.AsSpan(at, Cluster).Clear();
        }

        return bytes;
    }

    /// <summary>Makes the L2 table forget a cluster, as damage does.</summary>
    /// <returns>Its host offset.</returns>
    private static long Lose(string image, long guest)
    {
        using FileStream file = new(image, FileMode.Open);
        ulong Peek(long offset)
        {
            byte[] bytes = new byte[8];
            file.Position = offset;
            file.ReadExactly(bytes);
            return BinaryPrimitives.ReadUInt64BigEndian(bytes);
        }

        long table = (long)(Peek((long)Peek(40)) & PlainReader.OffsetMask);
        long place = table + (guest / Cluster * 8);
        long host = (long)(Peek(place) & PlainReader.OffsetMask);
        file.Position = place;
        file.Write(new byte[8]);
        return host;
    }
}
