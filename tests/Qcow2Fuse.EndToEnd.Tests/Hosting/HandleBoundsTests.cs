// SPDX-License-Identifier: MIT
using System.Runtime.CompilerServices;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>Who opens texts and directories as often as he can.</summary>
public sealed class HandleBoundsTests : CommandTest
{
    private const int ENFILE = 23;
    private static readonly MountSettings Settings = new() { ReadOnly = true };

    [Fact]
    public void No_more_texts_and_directories_are_open_than_there_is_room_for()
    {
        using ImageSet images = OpenImages(out TreeFileSystem files, new HandleTable { HandlesMax = 100 });
        ulong map = HostTree.Find(files, ".qcow2fuse", "a", "map").Node;
        List<ulong> texts = [];
        for (int i = 0; i < 99; i++)
        {
            Assert.Equal(0, files.Open(map, default, out FuseOpenResult opened));
            texts.Add(opened.Handle);
        }

        Assert.Equal(0, files.OpenDirectory(1, out ulong directory));
        Assert.Equal(ENFILE, ErrorOf(files, () => files.Open(map, default, out _)));
        Assert.Equal(ENFILE, ErrorOf(files, () => files.OpenDirectory(1, out _)));

        // Disks are opened and read all the same.
        ulong disk = HostTree.Find(files, "a.raw").Node;
        Assert.Equal(0, files.Open(disk, default, out FuseOpenResult open));
        Assert.Equal(512, files.Read(disk, open.Handle, 0, new byte[512]));
        files.Release(disk, open.Handle);
        files.Release(map, texts[0]);
        Assert.Equal(0, files.Open(map, default, out _));
        Assert.Equal(ENFILE, ErrorOf(files, () => files.OpenDirectory(1, out _)));
        files.ReleaseDirectory(1, directory);
        Assert.Equal(0, files.OpenDirectory(1, out _));
    }

    [Fact]
    public void Listings_of_a_directory_are_one_while_nothing_changes()
    {
        using ImageSet images = OpenImages(out TreeFileSystem files, new HandleTable { ListingBytesMax = 600 });
        for (int i = 0; i < 1000; i++)
            Assert.Equal(0, files.OpenDirectory(1, out _));
        Assert.Equal(0, files.OpenDirectory(HostTree.Find(files, ".qcow2fuse").Node, out ulong other));
        Assert.Equal(ENFILE, ErrorOf(
            files, () => files.OpenDirectory(HostTree.Find(files, ".qcow2fuse", "a").Node, out _)));
        files.ReleaseDirectory(1, other);
        Assert.Equal(0, files.OpenDirectory(HostTree.Find(files, ".qcow2fuse", "a").Node, out _));
    }

    [Fact]
    public void A_text_whose_node_has_gone_is_closed_by_its_release()
    {
        HandleTable handles = new() { HandlesMax = 1 };
        using ImageSet images = OpenImages(out TreeFileSystem files, handles);
        ulong map = HostTree.Find(files, ".qcow2fuse", "a", "map").Node;
        Assert.Equal(0, files.Open(map, default, out FuseOpenResult opened));
        images.Current()[0].DropDetails();
        files.Release(map, opened.Handle);
        Assert.Null(handles.Get<TextCursor>(opened.Handle));
        map = HostTree.Find(files, ".qcow2fuse", "a", "map").Node;
        Assert.Equal(0, files.Open(map, default, out _));
    }

    [Fact]
    public void A_listing_of_the_details_of_all_images_makes_no_nodes()
    {
        using ImageSet images = OpenImages(out TreeFileSystem files, new HandleTable());
        ulong hidden = HostTree.Find(files, ".qcow2fuse").Node;
        files.GetStatistics(1, out FuseStatistics before);
        Assert.Equal([".", "..", "a", "metrics"], HostTree.Names(files, hidden));
        files.GetStatistics(1, out FuseStatistics after);
        Assert.Equal(before.Nodes, after.Nodes);
        ulong details = HostTree.Find(files, ".qcow2fuse", "a").Node;
        Assert.Equal(details, HostTree.Find(files, ".qcow2fuse", "a").Node);
    }

    [Fact]
    public void One_listing_may_be_larger_than_all_that_are_open()
    {
        using ImageSet images = OpenImages(out TreeFileSystem files, new HandleTable { ListingBytesMax = 1 });
        Assert.Equal([".", "..", "a.raw"], HostTree.Names(files, 1));
        Assert.Equal([".", "..", "a.raw"], HostTree.Names(files, 1));
    }

    /// <summary>Whoever may change the directory could else fill the memory of the daemon with what has gone.</summary>
    [Fact]
    public void Listings_and_texts_that_are_open_keep_no_image_that_has_gone()
    {
        string[] names = ["a", "b", "c", "d"];
        using ImageSet images = OpenImages(out TreeFileSystem files, new HandleTable(), names);
        WeakReference[] weak = WeakImages(images);
        Assert.Equal(names.Length, weak.Length);
        Assert.Equal(0, files.OpenDirectory(1, out ulong listing));
        ulong metrics = HostTree.Find(files, ".qcow2fuse", "metrics").Node;
        Assert.Equal(0, files.Open(metrics, default, out FuseOpenResult text));
        Assert.InRange(files.Read(metrics, text.Handle, 0, new byte[512]), 1, 512);
        foreach (string name in names)
            File.Delete(PathOf($"images/{name}.qcow2"));
        Directory.SetLastWriteTimeUtc(PathOf("images"), DateTime.UtcNow.AddSeconds(10));

        // Where the first look at the directory took long, the next one is not made at once.
        Eventually.Holds(() => HostTree.Names(files, 1).Count == 2, "images that have gone are listed");

        // The text has the one that it is at.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        Assert.InRange(weak.Count(static image => image.IsAlive), 0, 1);
        FuseDirectoryWriter writer = new(new byte[1 << 12]);
        Assert.Equal(0, files.ReadDirectory(1, listing, 0, ref writer));
        Assert.NotEqual(0, writer.Length);
        Assert.InRange(files.Read(metrics, text.Handle, 512, new byte[512]), 1, 512);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static WeakReference[] WeakImages(ImageSet images) =>
        [.. images.Current().Select(static nodes => new WeakReference(nodes.Image))];

    [Fact]
    public void A_text_that_nobody_reads_gives_its_memory_to_others_and_goes_on_where_it_was()
    {
        TextRoom room = new() { BytesMax = 3000 };
        int made = 0;
        IEnumerable<string?> Lines(TextPace pace)
        {
            made++;
            for (int i = 0; i < 10; i++)
                yield return $"line {i}";
        }

        WalkLimits limits = new();
        TextCursor[] cursors = [.. Enumerable.Range(0, 10).Select(_ => new TextCursor(Lines, 1000, room))];
        byte[] buffer = new byte[7];
        for (int line = 0; line < 10; line++)
        {
            foreach (TextCursor cursor in cursors)
            {
                using Walk walk = limits.Begin();
                Assert.Equal(7, cursor.Read(line * 7, buffer, walk));
                Assert.Equal($"line {line}\n", Encoding.ASCII.GetString(buffer));
                Assert.InRange(room.Count, 1, 3);
            }
        }

        Assert.Equal(100, made);
        foreach (TextCursor cursor in cursors)
            cursor.Dispose();
        Assert.Equal(0, room.Count);
    }

    [Fact]
    public void A_second_reader_of_a_text_waits_for_the_first()
    {
        using ManualResetEventSlim begun = new();
        using ManualResetEventSlim ready = new();
        IEnumerable<string?> Lines(TextPace pace)
        {
            yield return "one";
            begun.Set();
            Assert.True(ready.Wait(Eventually.Patience));
            yield return "two";
        }

        WalkLimits limits = new() { LongTime = Eventually.Patience };
        using TextCursor cursor = new(Lines, 1000, new TextRoom());
        string Read(long offset)
        {
            byte[] buffer = new byte[8];
            using Walk walk = limits.Begin();
            int length = cursor.Read(offset, buffer, walk);
            return length < 0 ? $"error {-length}" : Encoding.ASCII.GetString(buffer, 0, length);
        }

        string first = "";
        string second = "";
        TestThread one = TestThread.Start(() => first = Read(0));
        Assert.True(begun.Wait(Eventually.Patience));
        TestThread two = TestThread.Start(() => second = Read(4));
        two.ShouldWait("two read at once");
        ready.Set();
        one.ShouldEnd();
        two.ShouldEnd();
        Assert.Equal(("one\ntwo\n", "two\n"), (first, second));
    }

    private ImageSet OpenImages(out TreeFileSystem files, HandleTable handles, params string[] names)
    {
        string path = PathOf("images");
        Directory.CreateDirectory(path);
        foreach (string name in names.DefaultIfEmpty("a"))
            HostTree.Write(NamesImage.WithSnapshots(0, 0, 0), Path.Combine(path, name + ".qcow2"));
        ImageSet images = ImageSet.Open(Settings, path, NullLogger.Instance);
        TreeContext context = new(Settings, NullLogger.Instance) { Handles = handles };
        images.CreateNodes(context, rootIsFile: false);
        files = new TreeFileSystem(context, images);
        return images;
    }

    /// <summary>What the caller is told, as the session does it.</summary>
    private static int ErrorOf(TreeFileSystem files, Func<int> request)
    {
        try
        {
            return -request();
        }
        catch (HandlesExhaustedException exception)
        {
            return files.OnFailure(exception);
        }
    }
}
