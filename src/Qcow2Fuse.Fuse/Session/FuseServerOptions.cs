// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>A request that ended in an exception, for the log.</summary>
/// <param name="Operation">Name of the operation, as "READ".</param>
/// <param name="Node">The node it was about.</param>
/// <param name="Errno">The error number that was answered.</param>
/// <param name="Exception">What was thrown.</param>
public readonly record struct FuseFailure(string Operation, ulong Node, int Errno, Exception Exception);

/// <summary>How a file system is served.</summary>
public sealed record FuseServerOptions
{
    /// <summary>Threads that serve, 1 to 256; each has one request in work, and more where they are queued.</summary>
    public int Workers { get; init; } = 16;

    /// <summary>
    /// Whether to take requests over io_uring where the kernel offers it (Linux 6.14, module parameter enable_uring).
    /// Each processor then has one thread more, which takes its requests, serves those that are one transfer without
    /// waiting, and hands the others to the <see cref="Workers"/>. Where it cannot be,
    /// the server says why, and all is as without it.
    /// </summary>
    public bool Uring { get; init; }

    /// <summary>
    /// Set to go on with a session that an earlier process began; its requests in work are sent again where the kernel
    /// can.
    /// </summary>
    public FuseResumption? Resumption { get; init; }

    /// <summary>Largest write and read in bytes, a multiple of 4096 from 4096 to 1 MiB.</summary>
    public int MaxWrite { get; init; } = 1 << 20;

    /// <summary>Requests the kernel sends in the background at once (read-ahead, asynchronous direct I/O).</summary>
    public int MaxBackground { get; init; } = 64;

    /// <summary>
    /// How long the kernel may use names and attributes without asking. Writes through the mount renew them anyway.
    /// </summary>
    public TimeSpan CacheTimeout { get; init; } = TimeSpan.FromHours(1);

    /// <summary>
    /// Whether the buffers of the workers, 1 MiB for each, are filled with memory at the start instead of when they are
    /// first used.
    /// </summary>
    public bool PopulateBuffers { get; init; }

    /// <summary>
    /// Whether workers leave transfers past the page cache to the disk while they take other requests, up to
    /// <see cref="MaxBackground"/> at once. For mounts of images that are opened with O_DIRECT; others only lose by it.
    /// </summary>
    public bool QueuesTransfers { get; init; }

    /// <summary>
    /// Whether there is memory for one more thread. Asked before a request gets a thread of its own; any thread.
    /// </summary>
    public Func<bool> HasRoom { get; init; } = static () => ManagedRoom.IsLeft;

    /// <summary>
    /// The error number (positive) for an exception of the file system; EIO for all where it is null.
    /// </summary>
    public Func<Exception, int>? MapException { get; init; }

    /// <summary>Told of every exception, on the worker it happened on.</summary>
    public Action<FuseFailure>? OnFailure { get; init; }

    /// <summary>Told, on a worker, whenever the last open file has been closed. Must not block.</summary>
    public Action? OnUnused { get; init; }

    /// <summary>Told once, on a worker, when the kernel has got the answer to its first request (INIT).</summary>
    public Action? OnInitialised { get; init; }
}
