// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Transport;

/// <summary>What there is to transfer.</summary>
public enum FuseTransferKind
{
    /// <summary>Bytes of a file.</summary>
    File,

    /// <summary>Nothing: the range reads as zeroes.</summary>
    Zeroes,
}

/// <summary>
/// A READ or WRITE that is one transfer between the request's payload and a file of the host, so that no thread has to
/// wait for it. There is one for each place that takes requests, and it is used again and again.
/// </summary>
public sealed class FuseTransfer
{
    /// <summary>Whether the request writes; set by the session.</summary>
    public bool IsWrite { get; set; }

    /// <summary>Bytes to transfer, at least 1, from or to memory that is aligned to 4096 bytes; set by the session.
    /// </summary>
    public int Length { get; set; }

    /// <summary>What it is; set by the file system.</summary>
    public FuseTransferKind Kind { get; set; }

    /// <summary>The file, where it is one; set by the file system.</summary>
    public int Descriptor { get; set; }

    /// <summary>Where in the file; set by the file system.</summary>
    public long Offset { get; set; }

    /// <summary>Whether the file is read and written through the host's page cache; set by the file system.</summary>
    public bool IsCached { get; set; }

    /// <summary>What the file system has to remember until the end; it may leave its memory here for the next one.
    /// </summary>
    public object? State { get; set; }
}
