// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Bench;

/// <summary>All jobs, in the order of the table.</summary>
public static class JobTable
{
    private const string RandomRead = "--rw=randread";
    private const string RandomWrite = "--rw=randwrite";
    private const string Small = "--bs=4k";
    private const string Large = "--bs=1M";
    private const string Direct = "--direct=1";
    private const string Buffered = "--direct=0";
    private const string One = "--ioengine=psync";
    private const string WriteBack = "writeback";

    /// <summary>The jobs.</summary>
    public static IReadOnlyList<Job> All { get; } =
    [
        new("rr1", "random read, direct, QD1", Scene.Full, [RandomRead, Small, Direct, One])
            { PeerBar = 1.4, RawBar = 0.85 },
        new("rr32", "random read, direct, QD32, 1 process", Scene.Full, [RandomRead, Small, Direct, .. Depth(32)])
            { PeerBar = 2.0, RawBar = 0.85 },
        new("rr32x4", "random read, direct, QD32, 4 processes", Scene.Full,
            [RandomRead, Small, Direct, .. Depth(32), "--numjobs=4"]) { PeerBar = 2.5, RawBar = 0.85 },
        new("rw1", "random write in place, direct, QD1", Scene.Full, [RandomWrite, Small, Direct, One])
            { Cache = WriteBack, PeerBar = 1.2, RawBar = 1.0 },
        new("rw32", "random write in place, direct, QD32", Scene.Full, [RandomWrite, Small, Direct, .. Depth(32)])
            { Cache = WriteBack, PeerBar = 1.5, RawBar = 1.0 },
        new("rw1n", "random write in place, direct, QD1, cache=none", Scene.Full, [RandomWrite, Small, Direct, One])
            { RawBar = 0.85 },
        new("rw32n", "random write in place, direct, QD32, cache=none", Scene.Full,
            [RandomWrite, Small, Direct, .. Depth(32)]) { RawBar = 0.85 },
        new("sync8", "8 synchronous direct writers", Scene.Full,
            [RandomWrite, Small, Direct, One, "--numjobs=8"]) { Cache = WriteBack, PeerBar = 1.3, RawBar = 0.85 },
        new("sr8", "sequential 1 MiB read, direct, QD8", Scene.Full, ["--rw=read", Large, Direct, .. Depth(8)])
            { PeerBar = 1.6, RawBar = 0.95 },
        new("srb", "sequential 1 MiB read, buffered, cold", Scene.Full, ["--rw=read", Large, Buffered, One])
            { PeerBar = 2.5, RawBar = 0.95, OnePass = true },
        new("sw8", "sequential 1 MiB write in place, QD8", Scene.Full, ["--rw=write", Large, Direct, .. Depth(8)])
            { Cache = WriteBack, PeerBar = 1.6, RawBar = 0.9 },
        new("hot", "hot buffered random read", Scene.Full, [RandomRead, Small, Buffered, One, "--invalidate=0"])
            { PeerBar = 50, RawBar = 0.9, Warm = true },
        new("aw", "allocating sequential 1 MiB write, empty image", Scene.Empty,
            ["--rw=write", Large, Direct, .. Depth(8)])
            { Cache = WriteBack, PeerBar = 2.0, RawBar = 0.8, OnePass = true },
        new("arw", "allocating random write, QD32", Scene.Wide,
            [RandomWrite, Small, Direct, .. Depth(32), "--io_size=256M"])
            { Cache = WriteBack, PeerBar = 1.5, RawBar = 0.9, OnePass = true },
        new("arwx", "allocating random write, QD32, extended L2", Scene.WideExtended,
            [RandomWrite, Small, Direct, .. Depth(32), "--io_size=256M"])
            { Cache = WriteBack, PeerBar = 1.5, RawBar = 0.9, OnePass = true },
        new("cow", "COW random write, QD32, over a backing file", Scene.Overlay,
            [RandomWrite, Small, Direct, .. Depth(32), "--io_size=16M"])
            { Cache = WriteBack, PeerBar = 2.0, HasRaw = false, OnePass = true },
        new("cowx", "COW random write, QD32, extended L2", Scene.OverlayExtended,
            [RandomWrite, Small, Direct, .. Depth(32), "--io_size=16M"])
            { Cache = WriteBack, PeerBar = 1.4, HasRaw = false, OnePass = true },
        new("fsync1", "write and fsync, 1 writer", Scene.Full, [RandomWrite, Small, Buffered, One, "--fsync=1"])
            { Cache = WriteBack, PeerBar = 1.4, RawBar = 0.8 },
        new("fsync8", "write and fsync, 8 writers", Scene.Full,
            [RandomWrite, Small, Buffered, One, "--fsync=1", "--numjobs=8"])
            { Cache = WriteBack, PeerBar = 2.5, RawBar = 0.8 },
        new("zlib", "sequential 1 MiB read, zlib", Scene.Zlib, ["--rw=read", Large, Direct, .. Depth(8)])
            { PeerBar = 1.5 },
        new("zstd", "sequential 1 MiB read, zstd", Scene.Zstd, ["--rw=read", Large, Direct, .. Depth(8)])
            { PeerBar = 1.5 },
        new("rrz", "random read of compressed, QD32", Scene.Zlib, [RandomRead, Small, Direct, .. Depth(32)])
            { PeerBar = 2.0 },
        new("seqcache", "sequential 4 KiB writes, compressed, against qemu-img convert -c", Scene.Empty)
            { PeerBar = 1.0, HasRaw = false, CompressedCopy = true },
        new("loop", "random read, QD32, loop device", Scene.Full, [RandomRead, Small, Direct, .. Depth(32)])
            { PeerBar = 1.5, RawBar = 0.75, Loop = true },
        new("huge", "random read, QD32, 1 TiB with 1 MiB of L2 cache", Scene.Huge,
            [RandomRead, Small, Direct, .. Depth(32), "--norandommap"])
            { PeerBar = 1.5, HasRaw = false, L2CacheBytes = 1 << 20 },
        new("chain", "random read, QD32, chain of 50, data in the base", Scene.Chain,
            [RandomRead, Small, Direct, .. Depth(32)]) { PeerBar = 1.5, RawBar = 0.7 },
    ];

    private static string[] Depth(int depth) => ["--ioengine=libaio", $"--iodepth={depth}"];
}
