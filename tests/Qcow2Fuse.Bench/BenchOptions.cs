// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Bench;

/// <summary>What is measured, with what.</summary>
public sealed record BenchOptions
{
    /// <summary>The program of this project.</summary>
    public required string Program { get; init; }

    /// <summary>Other builds of qemu-storage-daemon beside the installed one: name and path.</summary>
    public string? OtherStorageDaemon { get; init; }

    /// <summary>Another build of this project's program, to which alone it is compared; null for the peers.</summary>
    public string? Against { get; init; }

    /// <summary>Directory for images, on the disk that is to be measured.</summary>
    public required string Work { get; init; }

    /// <summary>Where the table and the chart go.</summary>
    public required string Output { get; init; }

    /// <summary>How often each subject does each job.</summary>
    public int Rounds { get; init; } = 3;

    /// <summary>Seconds of a run that has no end of its own.</summary>
    public int Seconds { get; init; } = 4;

    /// <summary>Bytes of the disks, but for the huge one.</summary>
    public long Size { get; init; } = 512L << 20;

    /// <summary>Ids of the jobs to do; all if empty.</summary>
    public IReadOnlyList<string> Only { get; init; } = [];

    /// <summary>Options for this project's mounts beside those of the job, as for <c>-o</c>.</summary>
    public string? OwnOptions { get; init; }

    /// <summary>Whether mounts with FUSE over io_uring are measured too, which the kernel is told to offer.</summary>
    public bool WithUring { get; init; }
}
