// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using System.Text;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Protocols.Memory;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>What tests do with the files of a mount without a mount.</summary>
internal static class HostTree
{
    /// <summary>Writes an image to a file, and disposes it.</summary>
    public static void Write(MemoryDevice image, string path)
    {
        using FileStream file = File.Create(path);
        byte[] piece = new byte[1 << 20];
        for (long at = 0; at < image.Length; at += piece.Length)
        {
            int length = (int)Math.Min(piece.Length, image.Length - at);
            image.Read(at, piece.AsSpan(0, length));
            file.Write(piece, 0, length);
        }

        image.Dispose();
    }

    /// <summary>The node at the end of some names, from the root on.</summary>
    public static FuseAttributes Find(TreeFileSystem files, params string[] names)
    {
        FuseAttributes found = new() { Node = 1 };
        foreach (string name in names)
            Assert.Equal(0, files.Lookup(found.Node, Encoding.UTF8.GetBytes(name), out found));
        return found;
    }

    /// <summary>The names that a small directory lists.</summary>
    public static List<string> Names(TreeFileSystem files, ulong directory)
    {
        Assert.Equal(0, files.OpenDirectory(directory, out ulong handle));
        byte[] buffer = new byte[1 << 16];
        FuseDirectoryWriter writer = new(buffer);
        Assert.Equal(0, files.ReadDirectory(directory, handle, 0, ref writer));
        List<string> names = [];
        for (int at = 0; at < writer.Length;)
        {
            int length = MemoryMarshal.Read<int>(buffer.AsSpan(at + 16));
            names.Add(Encoding.UTF8.GetString(buffer, at + 24, length));
            at += (24 + length + 7) & ~7;
        }

        files.ReleaseDirectory(directory, handle);
        return names;
    }
}
