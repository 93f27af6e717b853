// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>Names in a directory of very many images.</summary>
public sealed class ImageNamesTests : CommandTest
{
    private const int Many = 20_000;

    [Fact]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_name_among_very_many_is_found_without_a_search()
    {
        string path = PathOf("images");
        Directory.CreateDirectory(path);
        byte[] content = new byte[4 * 65536];
        using (MemoryDevice image = NamesImage.WithSnapshots(0, 0, 0))
            image.Read(0, content);
        for (int i = 0; i < Many; i++)
            Write(string.Create(CultureInfo.InvariantCulture, $"i{i}.qcow2"));
        foreach (string name in (string[])["a.qcow2", "a.b.qcow2", "a.b.c.img.qcow2"])
            Write(name);

        // All but the header is a hole.
        void Write(string name)
        {
            using FileStream file = File.Create(Path.Combine(path, name));
            file.Write(content, 0, 512);
            file.SetLength(content.Length);
        }

        MountSettings settings = new() { ReadOnly = true };
        long before = GC.GetTotalMemory(forceFullCollection: true);
        using ImageSet images = ImageSet.Open(settings, path, NullLogger.Instance);
        TreeContext context = new(settings, NullLogger.Instance);
        images.CreateNodes(context, rootIsFile: false);
        TreeFileSystem files = new(context, images);
        Assert.Equal(0, files.Lookup(1, "i7.raw"u8, out FuseAttributes known));
        foreach (ImageNodes image in images.Current())
            Assert.Equal(1 << 20, image.Raw.Attributes().Size);

        // What is held for each image, its name and what it shows included: 100,000 of them fit into 128 MiB.
        Assert.InRange((GC.GetTotalMemory(forceFullCollection: true) - before) / Many, 0, 1100);

        Assert.Equal(["i7"], images.WithFile("i7.raw").Select(static image => image.Name));
        Assert.Equal(["a", "a.b"], images.WithFile("a.b.p1.raw").Select(static image => image.Name));
        Assert.Empty(images.WithFile("nothing"));
        Assert.Equal("a.b.c.img", images.WithName("a.b.c.img")?.Name);
        Assert.Null(images.WithName("i7.raw"));
        foreach (int number in (int[])[0, 7, Many - 1])
        {
            byte[] name = Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"i{number}.raw"));
            Assert.Equal(0, files.Lookup(1, name, out FuseAttributes found));
            if (number == 7)
                Assert.Equal(known.Node, found.Node);
        }

        Assert.Equal(-Errno.ENOENT, files.Lookup(1, "i20000.raw"u8, out _));
    }
}
