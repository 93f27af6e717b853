// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Qcow2.Tests.Check;

/// <summary>Small images of all kinds, made by QEMU once and kept as bytes.</summary>
internal static class QemuImages
{
    private static readonly ConcurrentDictionary<string, Lazy<byte[]>> Made = new(StringComparer.Ordinal);

    private static readonly Dictionary<string, string> Options = new(StringComparer.Ordinal)
    {
        ["plain"] = "cluster_size=4k",
        ["v2"] = "cluster_size=4k,compat=0.10",
        ["512"] = "cluster_size=512",
        ["64k"] = "cluster_size=64k",
        ["2M"] = "cluster_size=2M",
        ["extended"] = "cluster_size=16k,extended_l2=on",
        ["metadata"] = "preallocation=metadata",
        ["full"] = "preallocation=full,extended_l2=on",
        ["lazy"] = "cluster_size=4k,lazy_refcounts=on",
        ["bits1"] = "cluster_size=4k,refcount_bits=1",
        ["bits2"] = "cluster_size=4k,refcount_bits=2",
        ["bits4"] = "cluster_size=4k,refcount_bits=4",
        ["bits8"] = "cluster_size=4k,refcount_bits=8",
        ["bits32"] = "cluster_size=4k,refcount_bits=32",
        ["bits64"] = "cluster_size=4k,refcount_bits=64",
        ["data file"] = "cluster_size=4k,data_file=image.data",
        ["data file, extended"] = "cluster_size=16k,data_file=image.data,data_file_raw=on,extended_l2=on",
        ["snapshots"] = "cluster_size=4k",
        ["snapshots v2"] = "cluster_size=4k,compat=0.10",
        ["snapshots, extended"] = "cluster_size=16k,extended_l2=on",
        ["snapshots, 64 bits"] = "cluster_size=64k,refcount_bits=64",
        ["bitmaps"] = "cluster_size=4k",
        ["compressed"] = "cluster_size=4k",
        ["compressed, zstd"] = "cluster_size=64k,compression_type=zstd",
        ["compressed, extended"] = "cluster_size=16k,extended_l2=on",
    };

    /// <summary>The names of the kinds.</summary>
    public static IReadOnlyCollection<string> Kinds => Options.Keys;

    /// <summary>The bytes of the image file.</summary>
    public static byte[] Get(string kind) =>
        Made.GetOrAdd(kind, static name => new Lazy<byte[]>(() => Make(name))).Value;

    /// <summary>Makes a snapshot and changes what is shared with it.</summary>
    private static void AddSnapshots(string image)
    {
        QemuTools.Img("snapshot", "-c", "first", image);
        QemuTools.Io(image, "write -P 3 32k 64k");
        QemuTools.Img("snapshot", "-c", "second", image);
        QemuTools.Io(image, "write -P 4 2100k 32k", "write -P 5 0 16k");
    }

    private static byte[] Make(string kind)
    {
        using TempDirectory directory = new();
        string image = directory.File("image.qcow2");
        string options = Options[kind].Replace(
            "image.data", directory.File("image.data"), StringComparison.Ordinal);
        if (kind.StartsWith("compressed", StringComparison.Ordinal))
        {
            string raw = directory.File("image.raw");
            byte[] bytes = new byte[4 << 20];
            for (int at = 0; at < 400 << 10; at += 64)
                Stamp.Bytes(at, 16, 3).CopyTo(bytes, at);
            File.WriteAllBytes(raw, bytes);
            QemuTools.Img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, image);
        }
        else
        {
            QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, image, "4M");
        }

        QemuTools.Io(image, "write -P 1 64k 64k", "write -P 2 2M 128k", "discard 2080k 16k", "write -P 2 512k 5k");
        if (!kind.Contains("v2", StringComparison.Ordinal))
            QemuTools.Io(image, "write -z 80k 16k");
        if (kind.StartsWith("snapshots", StringComparison.Ordinal))
            AddSnapshots(image);
        if (kind == "bitmaps")
        {
            QemuTools.Img("bitmap", "--add", image, "first");
            QemuTools.Img("bitmap", "--add", "-g", "512", image, "second");
            QemuTools.Io(image, "write -P 7 1M 64k");
        }

        return File.ReadAllBytes(image);
    }
}
