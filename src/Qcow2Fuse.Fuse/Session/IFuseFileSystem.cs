// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>
/// What a mount shows. The session calls these methods from all of its workers at once, one call per request, and
/// answers the kernel when the call returns.
/// </summary>
/// <remarks>
/// A method returns 0 (or a count, or an offset) on success and the negated error number on failure
/// (<see cref="Errno"/>). It may throw; the session turns exceptions into error numbers. Read, Write, Flush and
/// Fsync should not allocate managed memory. Nodes are numbers of the file system's choice; 1 is the root, which is
/// a directory or, where the mount point is a file, a regular file. Offsets and lengths are never negative and
/// their sum never overflows.
/// </remarks>
public interface IFuseFileSystem
{
    /// <summary>
    /// Finds <paramref name="name"/> (no slash, 1 to 255 bytes) in a directory. −ENOENT where it has none.
    /// </summary>
    int Lookup(ulong parent, ReadOnlySpan<byte> name, out FuseAttributes attributes);

    /// <summary>
    /// Whether it may take seconds to find or list something in a node, to read it or to change its attributes: a
    /// thread that nobody else waits for does it then. Asked before each of these; waits for nothing.
    /// </summary>
    bool MayTakeLong(ulong node) => false;

    /// <summary>As <see cref="MayTakeLong"/>, for opening a node.</summary>
    bool MayOpenLong(ulong node) => MayTakeLong(node);

    /// <summary>Describes a node.</summary>
    int GetAttributes(ulong node, out FuseAttributes attributes);

    /// <summary>
    /// Changes what <paramref name="change"/> names, all or nothing, and describes the node as it is then. A size
    /// change is ftruncate(2). An opening with O_TRUNC does not end here and is ignored, as by a block device, on which
    /// dd(1), cp(1) and shells rely.
    /// </summary>
    int SetAttributes(ulong node, in FuseAttributeChange change, out FuseAttributes attributes)
    {
        attributes = default;
        return -Errno.EPERM;
    }

    /// <summary>
    /// Opens a file. <see cref="FuseOpenResult.ForDisk"/> is the answer that suits the image of a disk.
    /// </summary>
    int Open(ulong node, FuseOpenRequest request, out FuseOpenResult result);

    /// <summary>The last user of an open file has gone. Nobody sees its failures.</summary>
    void Release(ulong node, ulong handle)
    {
    }

    /// <summary>
    /// Reads into <paramref name="destination"/>, which is the reply itself (page aligned, 0 to 1 MiB).
    /// Returns how many bytes; fewer than asked only at the end of the file.
    /// </summary>
    int Read(ulong node, ulong handle, long offset, Span<byte> destination);

    /// <summary>
    /// Writes <paramref name="source"/> (page aligned in memory, 0 to 1 MiB). Returns how many bytes were written.
    /// </summary>
    int Write(ulong node, ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind);

    /// <summary>
    /// Begins a read or write of <see cref="FuseTransfer.Length"/> bytes that is nothing but a transfer between the
    /// request and a run of bytes in an open file of the host, and says where that is. Called by the thread that takes
    /// requests, so it waits for nothing and does no I/O.
    /// </summary>
    /// <returns>
    /// Whether it is begun; <see cref="EndTransfer"/> follows. Otherwise, the default, <see cref="Read"/> or
    /// <see cref="Write"/> is called.
    /// </returns>
    bool TryBeginTransfer(ulong node, ulong handle, long offset, FuseTransfer transfer) => false;

    /// <summary>
    /// The transfer has ended, and nobody touches the file for it any more. If it was not done, wholly, then
    /// <see cref="Read"/> or <see cref="Write"/> is called for the same request. Waits for nothing.
    /// </summary>
    void EndTransfer(FuseTransfer transfer, bool isDone)
    {
    }

    /// <summary>A descriptor was closed. After the first −ENOSYS, the default, the kernel never asks again.</summary>
    int Flush(ulong node, ulong handle) => -Errno.ENOSYS;

    /// <summary>Makes all writes durable that had returned; with <paramref name="dataOnly"/> as fdatasync(2).</summary>
    int Fsync(ulong node, ulong handle, bool dataOnly);

    /// <summary>
    /// fallocate(2); <paramref name="length"/> is at least 1. −EOPNOTSUPP for modes it does not know.
    /// </summary>
    int Allocate(ulong node, ulong handle, FuseAllocateMode mode, long offset, long length) => -Errno.EOPNOTSUPP;

    /// <summary>
    /// lseek(2) with SEEK_DATA or SEEK_HOLE. Returns the offset found, −ENXIO at or behind the end of the file.
    /// After −ENOSYS, the default, the kernel treats the whole file as data.
    /// </summary>
    long Seek(ulong node, ulong handle, long offset, FuseSeekKind kind) => -Errno.ENOSYS;

    /// <summary>
    /// copy_file_range(2) between two open files, or within one. Returns how many bytes were copied, perhaps fewer than
    /// <paramref name="length"/>; 0 at or behind the end of the source. −EOPNOTSUPP has the kernel copy by reading and
    /// writing, and after −ENOSYS, the default, it does so always.
    /// </summary>
    /// <param name="source">Where the bytes are read.</param>
    /// <param name="destination">Where they are written; the kernel drops its pages of what was copied.</param>
    /// <param name="length">Bytes wanted; 0 or more.</param>
    long CopyRange(in FuseFilePlace source, in FuseFilePlace destination, long length) => -Errno.ENOSYS;

    /// <summary>Describes the file system for df(1).</summary>
    int GetStatistics(ulong node, out FuseStatistics statistics);

    /// <summary>Opens a directory. Its handle comes back with reads and with the release.</summary>
    int OpenDirectory(ulong node, out ulong handle)
    {
        handle = 0;
        return 0;
    }

    /// <summary>
    /// Adds entries to <paramref name="entries"/>, "." and ".." among them, from the one behind
    /// <paramref name="offset"/> on (0 is the start, others are what <see cref="FuseDirectoryWriter.Add"/> was given)
    /// until it is full. Adding none means the end.
    /// </summary>
    int ReadDirectory(ulong node, ulong handle, long offset, ref FuseDirectoryWriter entries);

    /// <summary>The last user of an open directory has gone.</summary>
    void ReleaseDirectory(ulong node, ulong handle)
    {
    }

    /// <summary>
    /// Returns the length of an extended attribute and, where <paramref name="value"/> is long enough, its value.
    /// −ENODATA where there is none.
    /// </summary>
    int GetExtendedAttribute(ulong node, ReadOnlySpan<byte> name, Span<byte> value) => -Errno.ENODATA;

    /// <summary>
    /// Returns the length of the list of extended attribute names, each ended by a NUL, and, where
    /// <paramref name="names"/> is long enough, the list.
    /// </summary>
    int ListExtendedAttributes(ulong node, Span<byte> names) => 0;
}
