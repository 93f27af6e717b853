// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>Directories with more than there is room for, and those that somebody changes all the time.</summary>
/// <remarks>
/// Where a look at the directory took long the next one is put off (<see cref="ImageDirectory.ChangeShare"/>): here
/// that would depend on how busy the machine is.
/// </remarks>
public sealed class ImageBoundsTests : CommandTest
{
    private static readonly MountSettings Settings = new() { ReadOnly = true };

    private int _touched;

    [Fact]
    public void Images_beyond_the_memory_for_them_are_refused_and_the_others_served()
    {
        Create(20);
        using ImageDirectory images = new(Settings, PathOf("images"), NullLogger.Instance)
        {
            ImageBytesMax = 5 * 1200,
            ChangeShare = 0,
        };
        TreeFileSystem files = TreeOf(images);
        List<string> names = HostTree.Names(files, 1);
        Assert.Equal(5 + 2, names.Count);
        foreach (string name in names.Skip(2))
            Assert.Equal(1 << 20, HostTree.Find(files, name).Size);
        string other = Enumerable.Range(0, 20).Select(NameOf).First(name => !names.Contains(name));
        Touch();
        BlockException failure = Assert.Throws<BlockException>(
            () => files.Lookup(1, Encoding.UTF8.GetBytes(other), out _));
        Assert.Equal(BlockErrorKind.NoMemory, failure.Kind);

        // Where one goes there is room for another.
        File.Delete(Path.Combine(PathOf("images"), Path.ChangeExtension(names[2], ".qcow2")));
        Assert.Equal(-Errno.ENOENT, files.Lookup(1, Encoding.UTF8.GetBytes(names[2]), out _));
        Touch();
        Assert.Equal(5 + 2, HostTree.Names(files, 1).Count);
    }

    /// <summary>They are in memory until they are closed, and it has to have an end.</summary>
    [Fact]
    public void Images_that_have_gone_count_as_long_as_somebody_has_them_open()
    {
        Create(5);
        using ImageDirectory images = new(Settings, PathOf("images"), NullLogger.Instance)
        {
            ImageBytesMax = 5 * 1200,
            ChangeShare = 0,
        };
        TreeFileSystem files = TreeOf(images);
        List<(ulong Node, ulong Handle)> open = [];
        foreach (string name in HostTree.Names(files, 1).Skip(2))
        {
            ulong node = HostTree.Find(files, name).Node;
            Assert.Equal(0, files.Open(node, default, out FuseOpenResult result));
            open.Add((node, result.Handle));
            File.Delete(Path.Combine(PathOf("images"), Path.ChangeExtension(name, ".qcow2")));
        }

        Assert.Equal(5, open.Count);
        for (int i = 5; i < 10; i++)
            Write(Path.ChangeExtension(NameOf(i), ".qcow2"));
        Touch();
        Assert.Equal([".", ".."], HostTree.Names(files, 1));
        foreach ((ulong node, ulong handle) in open)
            files.Release(node, handle);
        Eventually.Holds(() =>
        {
            Touch();
            return HostTree.Names(files, 1).Count == 5 + 2;
        });
    }

    [Fact]
    public void What_is_gone_through_one_by_one_follows_the_names()
    {
        Create(4);
        using ImageDirectory images = new(Settings, PathOf("images"), NullLogger.Instance) { ChangeShare = 0 };
        TreeFileSystem files = TreeOf(images);
        using IEnumerator<ImageNodes> all = images.OneByOne().GetEnumerator();
        Assert.True(all.MoveNext());
        Assert.Equal("i0", all.Current.Name);
        File.Delete(Path.Combine(PathOf("images"), "i0.qcow2"));
        File.Delete(Path.Combine(PathOf("images"), "i1.qcow2"));
        Write("i2a.qcow2");
        Touch();

        _ = HostTree.Names(files, 1);
        List<string> rest = [];
        while (all.MoveNext())
            rest.Add(all.Current.Name);
        Assert.Equal(["i2", "i2a", "i3"], rest);
    }

    [Fact]
    public void Names_beyond_the_memory_for_them_are_not_listed_and_still_found()
    {
        Create(20);
        using ImageDirectory images = new(Settings, PathOf("images"), NullLogger.Instance)
        {
            NameBytesMax = 5 * 120,
            ChangeShare = 0,
        };
        TreeFileSystem files = TreeOf(images);
        Assert.Equal(5 + 2, HostTree.Names(files, 1).Count);
        Touch();
        for (int i = 0; i < 20; i++)
            Assert.Equal(1 << 20, HostTree.Find(files, NameOf(i)).Size);

        // Who was found stays.
        Touch();
        Assert.Equal(20 + 2, HostTree.Names(files, 1).Count);
    }

    [Fact]
    public void Who_changes_a_large_directory_has_it_looked_at_for_a_part_of_the_time_and_names_are_right_at_once()
    {
        Create(3);
        using ImageDirectory images = new(Settings, PathOf("images"), NullLogger.Instance)
        {
            BriefLook = TimeSpan.FromTicks(-1),
            ChangeShare = int.MaxValue,
        };
        TreeFileSystem files = TreeOf(images);
        Assert.Equal(3 + 2, HostTree.Names(files, 1).Count);
        Assert.True(images.LooksLong);
        Write("new.qcow2");
        Write("other.img");
        File.Delete(Path.Combine(PathOf("images"), "i1.qcow2"));
        Touch();
        Assert.Equal(3 + 2, HostTree.Names(files, 1).Count);
        Assert.Equal(1 << 20, HostTree.Find(files, "new.raw").Size);
        Assert.Equal(1 << 20, HostTree.Find(files, "other.raw").Size);
        Assert.Equal(-Errno.ENOENT, files.Lookup(1, "i1.raw"u8, out _));
        Assert.Equal([".", "..", "i0.raw", "i2.raw", "new.raw", "other.raw"], HostTree.Names(files, 1));
    }

    [Fact]
    public void What_a_file_system_has_is_asked_of_a_few_images_at_a_time()
    {
        Create(3);
        using ImageDirectory images = new(Settings, PathOf("images"), NullLogger.Instance) { ChangeShare = 0 };
        _ = TreeOf(images);
        StatisticsSum sum = new() { Patience = TimeSpan.Zero };
        Assert.Equal(1UL << 20, sum.Of(images.Current()).Size);
        Assert.Equal(2UL << 20, sum.Of(images.Current()).Size);
        Assert.Equal(3UL << 20, sum.Of(images.Current()).Size);
        Assert.Equal(3UL << 20, sum.Of(images.Current()).Size);
        Assert.Equal(3UL << 20, new StatisticsSum { Patience = Eventually.Patience }.Of(images.Current()).Size);
    }

    private static string NameOf(int number) => string.Create(CultureInfo.InvariantCulture, $"i{number}.raw");

    private void Create(int count)
    {
        Directory.CreateDirectory(PathOf("images"));
        for (int i = 0; i < count; i++)
            Write(Path.ChangeExtension(NameOf(i), ".qcow2"));
    }

    private void Write(string name) =>
        HostTree.Write(NamesImage.WithSnapshots(0, 0, 0), Path.Combine(PathOf("images"), name));

    /// <summary>The directory changes, whatever the clock of its file system shows.</summary>
    private void Touch() =>
        Directory.SetLastWriteTimeUtc(PathOf("images"), DateTime.UtcNow.AddSeconds(10 * ++_touched));

    private static TreeFileSystem TreeOf(ImageSet images)
    {
        TreeContext context = new(Settings, NullLogger.Instance);
        images.CreateNodes(context, rootIsFile: false);
        return new TreeFileSystem(context, images);
    }
}
