// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>The files of very many snapshots.</summary>
public sealed class SnapshotFilesTests : CommandTest
{
    private const int Many = 65536;
    private static readonly MountSettings Settings = new() { ReadOnly = true };

    [Fact]
    public void A_name_among_very_many_is_found_without_a_search()
    {
        using ImageSet images = Open(NamesImage.WithSnapshots(Many, 5, 6), out TreeFileSystem files);
        ulong snapshots = Directory(files);
        Assert.Equal(0, files.Lookup(snapshots, NameOf(1), out FuseAttributes first));
        Assert.Equal(1 << 20, first.Size);
        Assert.Equal(0, files.Lookup(snapshots, NameOf(1), out FuseAttributes again));
        Assert.Equal(first.Node, again.Node);
        Assert.Equal(-Errno.ENOENT, files.Lookup(snapshots, "s0....raw"u8, out _));
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Equal(0, files.Lookup(snapshots, NameOf(Many), out FuseAttributes last));
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 512 << 10);
        Assert.NotEqual(first.Node, last.Node);
    }

    [Fact]
    public void Very_many_are_listed_by_parts_each_once()
    {
        using ImageSet images = Open(NamesImage.WithSnapshots(Many, 5, 6), out TreeFileSystem files);
        ulong snapshots = Directory(files);
        Assert.Equal(0, files.Lookup(snapshots, NameOf(7), out FuseAttributes known));
        Assert.Equal(0, files.OpenDirectory(snapshots, out ulong handle));
        HashSet<string> names = [];
        byte[] buffer = new byte[4096];
        long offset = 0;
        while (true)
        {
            FuseDirectoryWriter writer = new(buffer);
            Assert.Equal(0, files.ReadDirectory(snapshots, handle, offset, ref writer));
            if (writer.Length == 0)
                break;
            for (int at = 0; at < writer.Length;)
            {
                ulong node = MemoryMarshal.Read<ulong>(buffer.AsSpan(at));
                offset = MemoryMarshal.Read<long>(buffer.AsSpan(at + 8));
                int length = MemoryMarshal.Read<int>(buffer.AsSpan(at + 16));
                string name = Encoding.UTF8.GetString(buffer, at + 24, length);
                Assert.True(names.Add(name), name);
                if (name == "s7.....raw")
                    Assert.Equal(known.Node, node);
                at += (24 + length + 7) & ~7;
            }
        }

        Assert.Equal(Many + 2, names.Count);
        Assert.Contains(Encoding.UTF8.GetString(NameOf(Many)), names);
    }

    [Fact]
    public void No_more_nodes_stay_than_there_is_room_for()
    {
        using ImageSet images = Open(NamesImage.WithSnapshots(3000, 5, 6), out TreeFileSystem files);
        ulong snapshots = Directory(files);
        Assert.Equal(0, files.Lookup(snapshots, NameOf(1), out FuseAttributes first));
        Assert.Equal(0, files.Open(first.Node, default, out FuseOpenResult opened));
        for (int i = 2; i <= 3000; i++)
            Assert.Equal(0, files.Lookup(snapshots, NameOf(i), out _));
        files.GetStatistics(1, out FuseStatistics statistics);
        Assert.InRange(statistics.Nodes, 1000UL, 1100UL);

        // Who has it open goes on, and the name is found again.
        byte[] bytes = new byte[512];
        Assert.Equal(512, files.Read(first.Node, opened.Handle, 0, bytes));
        files.Release(first.Node, opened.Handle);
        Assert.Equal(0, files.Lookup(snapshots, NameOf(1), out _));
    }

    [Fact]
    public void The_index_is_in_memory_that_is_counted_and_goes_when_the_image_is_closed()
    {
        MountSettings settings = new() { ReadOnly = true };
        using ImageSet images = OpenDirectory(settings, out TreeFileSystem files);
        HostedImage image = images.Current()[0].Image;
        _ = image.Acquire();
        long before = settings.Memory.Taken;
        ulong snapshots = HostTree.Find(files, ".qcow2fuse", "disk", "snapshots").Node;
        Assert.Equal(0, files.Lookup(snapshots, NameOf(Many), out _));
        Assert.InRange(settings.Memory.Taken - before, Many * 4, Many * 64);
        image.Release();
        Assert.True(image.CloseUnused(TimeSpan.Zero));
        Assert.Equal(0, settings.Memory.Taken);
    }

    [Fact]
    public void Without_memory_for_the_index_the_snapshots_are_refused_and_the_disk_is_not()
    {
        MountSettings settings = new() { ReadOnly = true, MetadataBytesMax = 1 << 20 };
        using ImageSet images = OpenDirectory(settings, out TreeFileSystem files);
        ulong snapshots = HostTree.Find(files, ".qcow2fuse", "disk", "snapshots").Node;
        BlockException failure = Assert.Throws<BlockException>(() => files.Lookup(snapshots, NameOf(1), out _));
        Assert.Equal(BlockErrorKind.NoMemory, failure.Kind);
        Assert.Contains("the index of its snapshots", failure.Message);
        ulong disk = HostTree.Find(files, "disk.raw").Node;
        Assert.Equal(0, files.Open(disk, default, out FuseOpenResult opened));
        Assert.Equal(512, files.Read(disk, opened.Handle, 0, new byte[512]));
        files.Release(disk, opened.Handle);
    }

    [Fact]
    public void Attributes_need_nothing_but_the_header()
    {
        using ImageSet images = OpenDirectory(Settings, out TreeFileSystem files);
        FuseAttributes found = HostTree.Find(files, ".qcow2fuse", "disk", "unreferenced.raw");
        Assert.True(found.Size > Many * 64L);
        File.SetLastWriteTimeUtc(images.Current()[0].Image.Path, DateTime.UtcNow.AddSeconds(10));
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Equal(0, files.GetAttributes(found.Node, out FuseAttributes again));
        _ = HostTree.Find(files, ".qcow2fuse", "disk", "unreferenced.raw");
        Span<byte> value = stackalloc byte[100];
        Assert.Equal(5, files.GetExtendedAttribute(
            HostTree.Find(files, "disk.raw").Node, "user.qcow2fuse.format"u8, value));
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 256 << 10);
        Assert.Equal(found.Size, again.Size);
    }

    [Fact]
    public void Snapshots_whose_ids_are_long_are_opened_without_keeping_them()
    {
        using ImageSet images = Open(NamesImage.WithSnapshots(100, 60_000, 6), out TreeFileSystem files);
        ulong snapshots = Directory(files);
        Assert.Equal(0, files.Lookup(snapshots, NameOf(1), out FuseAttributes found));
        long before = GC.GetTotalMemory(forceFullCollection: true);
        for (int i = 2; i <= 100; i++)
            Assert.Equal(0, files.Lookup(snapshots, NameOf(i), out found));

        // An id takes 120,000 bytes.
        Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - before, long.MinValue, 2 << 20);
        Assert.Equal(0, files.Open(found.Node, default, out FuseOpenResult opened));
        Assert.Equal(512, files.Read(found.Node, opened.Handle, 0, new byte[512]));
        files.Release(found.Node, opened.Handle);
    }

    private ImageSet OpenDirectory(MountSettings settings, out TreeFileSystem files)
    {
        string path = PathOf("images");
        System.IO.Directory.CreateDirectory(path);
        HostTree.Write(NamesImage.WithSnapshots(Many, 5, 6), Path.Combine(path, "disk.qcow2"));
        ImageSet images = ImageSet.Open(settings, path, NullLogger.Instance);
        TreeContext context = new(settings, NullLogger.Instance);
        images.CreateNodes(context, rootIsFile: false);
        files = new TreeFileSystem(context, images);
        return images;
    }

    [SkippableTheory]
    [InlineData("info", true)]
    [InlineData("info", false)]
    [InlineData("snapshot", true)]
    [InlineData("snapshot", false)]
    [Trait(Speed.Name, Speed.Slow)]
    public void Names_of_64_MiB_are_printed_with_little_memory(string verb, bool json)
    {
        string path = Write(NamesImage.WithSnapshots(480, 65535, 65535));
        SetEnvironment("DOTNET_GCHeapHardLimit", "0x3000000");
        List<string> arguments = [verb, "--output", json ? "json" : "human"];
        if (verb == "snapshot")
            arguments.Add("-l");
        ProcessResult result = Run(TimeSpan.FromMinutes(2), [.. arguments, path]);
        Assert.Equal("", result.Error);
        Assert.Equal(0, result.ExitCode);
        Assert.InRange(result.Output.Length, 480 * 131_070, int.MaxValue);
    }

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public void Bitmaps_with_long_names_are_printed_with_little_memory(bool json)
    {
        string path = Write(NamesImage.WithBitmaps(65535, 1000));
        SetEnvironment("DOTNET_GCHeapHardLimit", "0x3000000");
        ProcessResult result = Run(TimeSpan.FromMinutes(2), "info", "--output", json ? "json" : "human", path);
        Assert.Equal("", result.Error);
        Assert.Equal(0, result.ExitCode);
        Assert.InRange(result.Output.Length, 65_535_000, int.MaxValue);
    }

    private ImageSet Open(MemoryDevice image, out TreeFileSystem files)
    {
        ImageSet images = ImageSet.Open(Settings, Write(image), NullLogger.Instance);
        TreeContext context = new(Settings, NullLogger.Instance);
        images.CreateNodes(context, rootIsFile: false);
        files = new TreeFileSystem(context, images);
        return images;
    }

    private string Write(MemoryDevice image)
    {
        string path = PathOf("disk.qcow2");
        HostTree.Write(image, path);
        return path;
    }

    private static ulong Directory(TreeFileSystem files)
    {
        Assert.Equal(0, files.Lookup(1, ".qcow2fuse"u8, out FuseAttributes hidden));
        Assert.Equal(0, files.Lookup(hidden.Node, "disk"u8, out FuseAttributes details));
        Assert.Equal(0, files.Lookup(details.Node, "snapshots"u8, out FuseAttributes found));
        return found.Node;
    }

    private static byte[] NameOf(int number) => Encoding.UTF8.GetBytes(
        ("s" + number.ToString(CultureInfo.InvariantCulture)).PadRight(6, '.') + ".raw");
}
