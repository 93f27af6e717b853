// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Bench;

/// <summary>One row of the table: a load that fio puts on a file.</summary>
/// <param name="Id">Short name, for <c>--only</c>.</param>
/// <param name="Title">What the row is called.</param>
/// <param name="Scene">The image.</param>
/// <param name="Fio">The arguments of fio that make the load.</param>
public sealed record Job(string Id, string Title, Scene Scene, params string[] Fio)
{
    /// <summary>How the image is opened: <c>none</c> (O_DIRECT) or <c>writeback</c>, the same for all.</summary>
    public string Cache { get; init; } = "none";

    /// <summary>Smallest ratio to the best peer that is aimed at, or null.</summary>
    public double? PeerBar { get; init; }

    /// <summary>Smallest ratio to the plain file that is aimed at, or null.</summary>
    public double? RawBar { get; init; }

    /// <summary>Whether the plain file is part of the comparison.</summary>
    public bool HasRaw { get; init; } = true;

    /// <summary>Whether fio ends when it has done the whole file once, not after a time.</summary>
    public bool OnePass { get; init; }

    /// <summary>Whether the file is read once, not counted, before fio starts.</summary>
    public bool Warm { get; init; }

    /// <summary>Whether the load is put on a loop device with direct I/O over the file.</summary>
    public bool Loop { get; init; }

    /// <summary>Bytes of the cache of L2 tables of every subject, or null for the default.</summary>
    public int? L2CacheBytes { get; init; }

    /// <summary>Whether the job is the copy into a compressed target, which is no job for fio.</summary>
    public bool CompressedCopy { get; init; }

    /// <summary>Whether bytes tell more of the speed than requests.</summary>
    public bool IsCountedInBytes => CompressedCopy || Fio.Contains("--bs=1M");

    /// <summary>Whether the load changes the image.</summary>
    public bool Writes => Fio.Any(static word => word is "--rw=randwrite" or "--rw=write");
}
