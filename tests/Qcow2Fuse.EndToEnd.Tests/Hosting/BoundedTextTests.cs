// SPDX-License-Identifier: MIT
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>Texts and searches over images that claim to be enormous.</summary>
public sealed class BoundedTextTests : CommandTest
{
    private const int Tables = 1 << 20;
    private static readonly MountSettings Settings = new() { ReadOnly = true };

    [Fact]
    public void The_map_of_an_endless_image_is_read_from_its_beginning_at_once()
    {
        string path = Fan("fan.qcow2", static i => (ulong)i & 1);
        using ImageSet images = ImageSet.Open(Settings, path, NullLogger.Instance);
        TreeFileSystem files = TreeOf(images);
        ulong map = Find(files, "fan", "map");
        Assert.Equal(0, files.Open(map, default, out FuseOpenResult opened));
        byte[] page = new byte[128 << 10];
        StringBuilder text = new();
        for (long at = 0; at < 1 << 20;)
        {
            int length = files.Read(map, opened.Handle, at, page);
            Assert.InRange(length, 1, page.Length);
            text.Append(Encoding.UTF8.GetString(page, 0, length));
            at += length;
        }

        string[] lines = text.ToString().Split('\n');
        for (int i = 0; i < lines.Length - 1; i++)
            Assert.StartsWith($"{{ \"start\": {i * 65536L}, \"length\": 65536, \"depth\": 0, ", lines[i]);

        // Whoever goes back gets the same.
        int again = files.Read(map, opened.Handle, 1000, page);
        Assert.Equal(text.ToString(1000, again), Encoding.UTF8.GetString(page, 0, again));
        files.Release(map, opened.Handle);
    }

    [Fact]
    public void The_map_of_an_image_of_nothing_is_one_line()
    {
        string path = Fan("fan.qcow2", static _ => 1);
        using ImageSet images = ImageSet.Open(Settings, path, NullLogger.Instance);
        TreeFileSystem files = TreeOf(images);
        ulong map = Find(files, "fan", "map");
        Assert.Equal(0, files.Open(map, default, out FuseOpenResult opened));
        byte[] page = new byte[4096];
        int length = files.Read(map, opened.Handle, 0, page);
        Assert.Equal(
            $"{{ \"start\": 0, \"length\": {(long)Tables << 29}, \"depth\": 0, \"present\": true, \"zero\": true, "
            + "\"data\": false, \"compressed\": false}\n",
            Encoding.UTF8.GetString(page, 0, length));
        Assert.Equal(0, files.Read(map, opened.Handle, length, page));
        files.Release(map, opened.Handle);
    }

    [Fact]
    public void A_search_finds_data_and_holes_in_a_table_of_both()
    {
        string path = Fan("fan.qcow2", static i => i == 8191 ? 0x1_0000u : 1);
        using ImageSet images = ImageSet.Open(Settings, path, NullLogger.Instance);
        TreeFileSystem files = TreeOf(images);
        Assert.Equal(0, files.Lookup(1, "fan.raw"u8, out FuseAttributes found));
        Assert.Equal(0, files.Open(found.Node, default, out _));
        Assert.Equal(8191 * 65536L, files.Seek(found.Node, 0, 0, FuseSeekKind.Data));
        Assert.Equal(0, files.Seek(found.Node, 0, 0, FuseSeekKind.Hole));
        files.Release(found.Node, 0);
    }

    [Fact]
    public void A_search_without_time_says_what_is_always_right()
    {
        string path = Fan("fan.qcow2", static _ => 1);
        using ImageSet images = ImageSet.Open(Settings, path, NullLogger.Instance);
        TreeFileSystem files = TreeOf(
            images, new WalkLimits { LongTime = TimeSpan.Zero, ShortTime = TimeSpan.Zero });
        Assert.Equal(0, files.Lookup(1, "fan.raw"u8, out FuseAttributes found));
        Assert.Equal(0, files.Open(found.Node, default, out _));
        Assert.Equal(4096, files.Seek(found.Node, 0, 4096, FuseSeekKind.Data));
        Assert.Equal(found.Size, files.Seek(found.Node, 0, 4096, FuseSeekKind.Hole));
        files.Release(found.Node, 0);
    }

    [Fact]
    public void Only_a_few_walks_may_be_long()
    {
        WalkLimits limits = new() { LongTime = TimeSpan.FromDays(1), ShortTime = TimeSpan.Zero };
        Walk first = limits.Begin();
        for (int i = 1; i < WalkLimits.LongMax; i++)
            Assert.False(limits.Begin().IsOver);
        Walk further = limits.Begin();
        Assert.True(further.IsOver);
        further.Dispose();
        Assert.True(limits.Begin().IsOver);
        first.Dispose();
        Assert.False(limits.Begin().IsOver);
    }

    private string Fan(string name, Func<int, ulong> entryOf)
    {
        using MemoryDevice image = FanImage.Create(16, Tables, entryOf);
        string path = PathOf(name);
        using FileStream file = File.Create(path);
        byte[] piece = new byte[1 << 20];
        for (long at = 0; at < image.Length; at += piece.Length)
        {
            int length = (int)Math.Min(piece.Length, image.Length - at);
            image.Read(at, piece.AsSpan(0, length));
            file.Write(piece, 0, length);
        }

        return path;
    }

    private static ulong Find(TreeFileSystem files, string image, string name)
    {
        Assert.Equal(0, files.Lookup(1, ".qcow2fuse"u8, out FuseAttributes hidden));
        Assert.Equal(0, files.Lookup(hidden.Node, Encoding.UTF8.GetBytes(image), out FuseAttributes details));
        Assert.Equal(0, files.Lookup(details.Node, Encoding.UTF8.GetBytes(name), out FuseAttributes found));
        return found.Node;
    }

    private static TreeFileSystem TreeOf(ImageSet images, WalkLimits? walks = null)
    {
        TreeContext context = new(Settings, NullLogger.Instance) { Walks = walks ?? new WalkLimits() };
        images.CreateNodes(context, rootIsFile: false);
        return new TreeFileSystem(context, images);
    }
}
