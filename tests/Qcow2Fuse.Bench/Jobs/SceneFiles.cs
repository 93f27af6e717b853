// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>Makes the images of the scenes, by qemu-img, and the plain files they are compared with.</summary>
public sealed class SceneFiles
{
    private const long WideBytes = 32L << 30;
    private const long HugeBytes = 1L << 40;
    private const int Layers = 50;
    private const int BlockBytes = 4096;

    private readonly string _work;
    private readonly long _size;

    /// <summary>Images go to <paramref name="work"/>; the disks have <paramref name="size"/> bytes.</summary>
    public SceneFiles(string work, long size)
    {
        _work = work;
        _size = size;
    }

    /// <summary>A plain file whose blocks are half noise, half one byte: it compresses to about a half.</summary>
    public string Plain => Once("plain.raw", WritePlain);

    /// <summary>Bytes of the disk in a scene.</summary>
    public long SizeOf(Scene scene) => scene switch
    {
        Scene.Wide or Scene.WideExtended => WideBytes,
        Scene.Huge => HugeBytes,
        _ => _size,
    };

    /// <summary>The plain file that stands for a scene: the content where there is any, or a sparse file.</summary>
    public string RawFor(Scene scene)
    {
        if (scene is not (Scene.Empty or Scene.Wide or Scene.WideExtended))
            return Plain;
        string path = Path.Combine(_work, "sparse.raw");
        File.Delete(path);
        Tool.Run("truncate", "-s", Text(SizeOf(scene)), path);
        return path;
    }

    /// <summary>The image of a scene, made anew if a run changes what it is about.</summary>
    public string ImageFor(Scene scene) => scene switch
    {
        Scene.Full => Full,
        Scene.Empty => Fresh("create", "-q", "-f", "qcow2", "{}", Text(_size)),
        Scene.Wide => Fresh("create", "-q", "-f", "qcow2", "{}", Text(WideBytes)),
        Scene.WideExtended =>
            Fresh("create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k", "{}", Text(WideBytes)),
        Scene.Overlay => Fresh("create", "-q", "-f", "qcow2", "-b", Full, "-F", "qcow2", "{}"),
        Scene.OverlayExtended => Fresh(
            "create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k", "-b", Full, "-F", "qcow2", "{}"),
        Scene.Zlib => Compressed("zlib"),
        Scene.Zstd => Compressed("zstd"),
        Scene.Huge => Once("huge.qcow2", static path => Tool.Run(
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, Text(HugeBytes))),
        Scene.Chain => Once("chain.qcow2", MakeChain),
        _ => throw new ArgumentOutOfRangeException(nameof(scene)),
    };

    private string Full => Once("full.qcow2", path =>
        Tool.Run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", Plain, path));

    private string Compressed(string compression) => Once(compression + ".qcow2", path => Tool.Run(
        "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=" + compression, Plain, path));

    private void MakeChain(string path)
    {
        string below = Full;
        for (int i = 1; i <= Layers; i++)
        {
            string layer = i == Layers ? path : Path.Combine(_work, $"layer{i}.qcow2");
            Tool.Run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", layer);
            below = layer;
        }
    }

    private void WritePlain(string path)
    {
        Random random = new(1);
        byte[] block = new byte[BlockBytes];
        using FileStream file = new(path, FileMode.CreateNew, FileAccess.Write, FileShare.Read, 1 << 20);
        for (long at = 0; at < _size; at += BlockBytes)
        {
            random.NextBytes(block.AsSpan(0, BlockBytes / 2));
            block.AsSpan(BlockBytes / 2).Fill(block[0]);
            file.Write(block);
        }
    }

    private string Once(string name, Action<string> make)
    {
        string path = Path.Combine(_work, name);
        if (!File.Exists(path))
            make(path);
        return path;
    }

    private string Fresh(params string[] arguments)
    {
        string path = Path.Combine(_work, "fresh.qcow2");
        File.Delete(path);
        Tool.Run("qemu-img", [.. arguments.Select(word => word is "{}" ? path : word)]);
        return path;
    }

    private static string Text(long number) => number.ToString(CultureInfo.InvariantCulture);
}
