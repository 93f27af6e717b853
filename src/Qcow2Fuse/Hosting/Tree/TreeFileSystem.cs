// SPDX-License-Identifier: MIT
using System.Diagnostics.CodeAnalysis;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>Finds the node that a request is about and lets it answer.</summary>
/// <param name="context">What all nodes share; its first node is the root.</param>
/// <param name="images">The images that are shown.</param>
internal sealed class TreeFileSystem(TreeContext context, ImageSet images) : IFuseFileSystem
{
    private const int MessagePeriodMilliseconds = 1000;

    private readonly StatisticsSum _sums = new();
    private long _lastMessage = -MessagePeriodMilliseconds;

    /// <inheritdoc/>
    public int Lookup(ulong parent, ReadOnlySpan<byte> name, out FuseAttributes attributes)
    {
        attributes = default;
        if (!context.Nodes.TryGet(parent, out TreeNode? node))
            return -Errno.ESTALE;
        if (node is not DirectoryNode directory)
            return -Errno.ENOTDIR;
        ManagedRoom.Require();
        if (directory.Find(ByteText.Decode(name)) is not { } found)
            return -Errno.ENOENT;
        attributes = found.Attributes();
        return 0;
    }

    /// <inheritdoc/>
    public bool MayTakeLong(ulong node) =>
        context.Nodes.TryGet(node, out TreeNode? found) && found.MayTakeLong;

    /// <inheritdoc/>
    public bool MayOpenLong(ulong node) =>
        context.Nodes.TryGet(node, out TreeNode? found) && found.MayOpenLong;

    /// <inheritdoc/>
    public int GetAttributes(ulong node, out FuseAttributes attributes)
    {
        attributes = default;
        if (!context.Nodes.TryGet(node, out TreeNode? found))
            return -Errno.ESTALE;
        attributes = found.Attributes();
        return 0;
    }

    /// <inheritdoc/>
    public int SetAttributes(ulong node, in FuseAttributeChange change, out FuseAttributes attributes)
    {
        attributes = default;
        return TryFind(node, change.Handle ?? context.PlainHandle, out TreeNode? found, out int error)
            ? found.SetAttributes(change, out attributes)
            : error;
    }

    /// <inheritdoc/>
    public int Open(ulong node, FuseOpenRequest request, out FuseOpenResult result)
    {
        result = default;
        ManagedRoom.Require();
        return context.Nodes.TryGet(node, out TreeNode? found) ? found.Open(request, out result) : -Errno.ESTALE;
    }

    /// <inheritdoc/>
    public void Release(ulong node, ulong handle)
    {
        if (context.Nodes.TryGet(node, out TreeNode? found))
            found.Release(handle);
        else
            context.DropHandle(handle);
    }

    /// <inheritdoc/>
    public int Read(ulong node, ulong handle, long offset, Span<byte> destination) =>
        TryFind(node, handle, out TreeNode? found, out int error)
            ? found.Read(handle, offset, destination)
            : error;

    /// <inheritdoc/>
    public int Write(ulong node, ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind) =>
        TryFind(node, handle, out TreeNode? found, out int error)
            ? found.Write(handle, offset, source, kind)
            : error;

    /// <inheritdoc/>
    public bool TryBeginTransfer(ulong node, ulong handle, long offset, FuseTransfer transfer) =>
        context.Nodes.TryGet(node, out TreeNode? found) && context.IsOwn(handle)
        && found.TryBeginTransfer(offset, transfer);

    /// <inheritdoc/>
    public void EndTransfer(FuseTransfer transfer, bool isDone) => ((PlainTransfer)transfer.State!).End(isDone);

    /// <inheritdoc/>
    public int Fsync(ulong node, ulong handle, bool dataOnly) =>
        TryFind(node, handle, out TreeNode? found, out int error)
            ? found.Fsync()
            : error;

    /// <inheritdoc/>
    public int Allocate(ulong node, ulong handle, FuseAllocateMode mode, long offset, long length) =>
        TryFind(node, handle, out TreeNode? found, out int error)
            ? found.Allocate(mode, offset, length)
            : error;

    /// <inheritdoc/>
    public long Seek(ulong node, ulong handle, long offset, FuseSeekKind kind) =>
        TryFind(node, handle, out TreeNode? found, out int error)
            ? found.Seek(offset, kind)
            : error;

    /// <inheritdoc/>
    public long CopyRange(in FuseFilePlace source, in FuseFilePlace destination, long length)
    {
        if (!TryFind(source.Node, source.Handle, out TreeNode? from, out int error)
            || !TryFind(destination.Node, destination.Handle, out TreeNode? to, out error))
            return error;
        return from is RawFileNode read && to is RawFileNode written
            ? RangeCopy.Run(read, written, source.Offset, destination.Offset, length)
            : -Errno.EOPNOTSUPP;
    }

    /// <inheritdoc/>
    public int GetStatistics(ulong node, out FuseStatistics statistics)
    {
        (ulong size, ulong free) = _sums.Of(images.Current());
        statistics = new FuseStatistics
        {
            BlockSize = TreeContext.BlockSize,
            Blocks = (size + TreeContext.BlockSize - 1) / TreeContext.BlockSize,
            FreeBlocks = free / TreeContext.BlockSize,
            AvailableBlocks = free / TreeContext.BlockSize,
            Nodes = (ulong)context.Nodes.Count,
        };
        return 0;
    }

    /// <inheritdoc/>
    public int OpenDirectory(ulong node, out ulong handle)
    {
        handle = 0;
        if (!context.Nodes.TryGet(node, out TreeNode? found))
            return -Errno.ESTALE;
        if (found is not DirectoryNode directory)
            return -Errno.ENOTDIR;

        ManagedRoom.Require();

        // As it is now, so that positions mean the same in all reads.
        handle = context.AddHandle(directory.Listing());
        return 0;
    }

    /// <inheritdoc/>
    public int ReadDirectory(ulong node, ulong handle, long offset, ref FuseDirectoryWriter entries)
    {
        ManagedRoom.Require();
        if (!context.IsOwn(handle) && context.Handle<DirectoryListing>(handle) is null
            && context.Nodes.TryGet(node, out TreeNode? found) && found is DirectoryNode directory)
        {
            context.RenewHandle(handle, directory.Listing());
        }

        if (context.Handle<DirectoryListing>(handle) is not { Entries: { } all })
            return -Errno.EBADF;
        int i = (int)Math.Min(offset, all.Length);
        for (; i < all.Length; i++)
        {
            DirectoryEntry entry = all[i];
            if (!entries.Add(entry.Number, entry.Kind, ByteText.Encode(entry.Name), i + 1))
                return 0;
        }

        ListRest(node, Math.Max(offset, all.Length) - all.Length, all.Length, ref entries);
        return 0;
    }

    /// <summary>What the directory lists bit by bit, in a buffer of the size that the kernel's has left.</summary>
    private void ListRest(ulong node, long position, int before, ref FuseDirectoryWriter entries)
    {
        if (!context.Nodes.TryGet(node, out TreeNode? found) || found is not DirectoryNode directory)
            return;
        List<(byte[] Name, ulong Node, uint Kind, long Next)> some = [];
        int left = entries.Left;
        directory.ListFrom(position, (name, number, kind, next) =>
        {
            byte[] bytes = ByteText.Encode(name);
            some.Add((bytes, number, kind, next + before));
            left -= bytes.Length;
            return left > 0;
        });
        foreach ((byte[] name, ulong number, uint kind, long next) in some)
        {
            if (!entries.Add(number, kind, name, next))
                return;
        }
    }

    /// <inheritdoc/>
    public void ReleaseDirectory(ulong node, ulong handle) => context.RemoveHandle(handle);

    /// <inheritdoc/>
    public int GetExtendedAttribute(ulong node, ReadOnlySpan<byte> name, Span<byte> value)
    {
        if (!context.Nodes.TryGet(node, out TreeNode? found))
            return -Errno.ESTALE;

        // The kernel asks for others' names (security.capability) too, for which no header is to be read.
        if (!name.StartsWith("user.qcow2fuse."u8))
            return -Errno.ENODATA;
        string wanted = ByteText.Decode(name);
        foreach ((string known, string text) in found.ExtendedAttributes())
        {
            if (string.Equals(known, wanted, StringComparison.Ordinal))
                return Copy(ByteText.Encode(text), value);
        }

        return -Errno.ENODATA;
    }

    /// <inheritdoc/>
    public int ListExtendedAttributes(ulong node, Span<byte> names)
    {
        if (!context.Nodes.TryGet(node, out TreeNode? found))
            return -Errno.ESTALE;
        string all = string.Concat(found.ExtendedAttributes().Select(static attribute => attribute.Name + "\0"));
        return Copy(ByteText.Encode(all), names);
    }

    /// <summary>The error number for a failure, which is also logged, at most once a second.</summary>
    public int OnFailure(Exception exception)
    {
        long now = Environment.TickCount64;
        long last = Interlocked.Read(ref _lastMessage);
        if (now - last >= MessagePeriodMilliseconds
            && Interlocked.CompareExchange(ref _lastMessage, now, last) == last)
        {
            HostLog.RequestFailed(context.Logger, exception.Message);
        }

        return exception switch
        {
            BlockException failure => BlockErrnos.Of(failure.Kind),
            HandlesExhaustedException => Errno.ENFILE,
            OutOfMemoryException => Errno.ENOMEM,
            _ => Errno.EIO,
        };
    }

    /// <summary>The node that an open file is of; false with a negated error number. Allocates nothing.</summary>
    private bool TryFind(ulong node, ulong handle, [NotNullWhen(true)] out TreeNode? found, out int error)
    {
        error = -Errno.ESTALE;
        if (!context.Nodes.TryGet(node, out found))
            return false;
        error = context.IsOwn(handle) ? 0 : found.Resume(handle);
        return error == 0;
    }

    /// <summary>Copies what fits, all or nothing, and returns how long it is.</summary>
    private static int Copy(byte[] source, Span<byte> destination)
    {
        if (source.Length <= destination.Length)
            source.CopyTo(destination);
        return source.Length;
    }
}
