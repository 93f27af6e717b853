// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing.Crash;

/// <summary>What else an image, the way it is opened, or the workload of a crash run has.</summary>
[Flags]
public enum CrashFeatures
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>The image has lazy refcounts: it is marked dirty while it is written.</summary>
    Lazy = 1,

    /// <summary>The guest's data lies in a file of its own.</summary>
    Data = 2,

    /// <summary>The data file alone is the guest's disk; with <see cref="Data"/>.</summary>
    RawData = 4,

    /// <summary>Discarded clusters keep their place.</summary>
    NoUnref = 8,

    /// <summary>Discards do nothing.</summary>
    IgnoreDiscards = 16,

    /// <summary>Every write is durable when it returns.</summary>
    WriteThrough = 32,

    /// <summary>Compressed clusters are compressed with zstd.</summary>
    Zstd = 64,

    /// <summary>Snapshots are made, applied and deleted.</summary>
    Snapshots = 128,

    /// <summary>The disk grows and shrinks.</summary>
    Resizes = 256,

    /// <summary>What the guest writes is compressed.</summary>
    Compress = 512,

    /// <summary>The metadata caches are as small as they can be.</summary>
    SmallCaches = 1024,

    /// <summary>Metadata is flushed by itself all the time.</summary>
    Commit = 2048,

    /// <summary>What is below the image is exchanged all the time.</summary>
    Exchanges = 4096,
}
