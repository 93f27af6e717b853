// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>
/// A file or directory of a mount. Methods answer as those of <see cref="IFuseFileSystem"/> do, which calls them from
/// all workers at once; what a kind of node does not know is refused.
/// </summary>
internal abstract class TreeNode
{
    /// <summary>The number the kernel knows it by; 0 before the node table has it.</summary>
    public ulong Number { get; set; }

    /// <summary>S_IFDIR or S_IFREG.</summary>
    public abstract uint Kind { get; }

    /// <summary>As <see cref="IFuseFileSystem.MayTakeLong"/>.</summary>
    public virtual bool MayTakeLong => false;

    /// <summary>As <see cref="IFuseFileSystem.MayOpenLong"/>.</summary>
    public virtual bool MayOpenLong => MayTakeLong;

    /// <summary>What stat(2) says.</summary>
    public abstract FuseAttributes Attributes();

    public virtual int SetAttributes(in FuseAttributeChange change, out FuseAttributes attributes)
    {
        attributes = default;
        return -Errno.EPERM;
    }

    public virtual int Open(FuseOpenRequest request, out FuseOpenResult result)
    {
        result = default;
        return -Errno.EISDIR;
    }

    /// <summary>Prepares for requests through a handle that an earlier process gave out; may be called again and again.
    /// </summary>
    /// <returns>0, or −EIO where writes of it may be lost.</returns>
    public virtual int Resume(ulong handle) => 0;

    public virtual void Release(ulong handle)
    {
    }

    public virtual int Read(ulong handle, long offset, Span<byte> destination) => -Errno.EISDIR;

    /// <summary>As <see cref="IFuseFileSystem.Write"/>.</summary>
    public virtual int Write(ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind) =>
        -Errno.EROFS;

    /// <summary>As <see cref="IFuseFileSystem.TryBeginTransfer"/>.</summary>
    public virtual bool TryBeginTransfer(long offset, FuseTransfer transfer) => false;

    public virtual int Fsync() => 0;

    public virtual int Allocate(FuseAllocateMode mode, long offset, long length) => -Errno.EOPNOTSUPP;

    /// <remarks>Never −ENOSYS, after which the kernel would ask for no file any more.</remarks>
    public virtual long Seek(long offset, FuseSeekKind kind) => -Errno.ENXIO;

    /// <summary>The extended attributes, by name.</summary>
    public virtual IReadOnlyList<(string Name, string Value)> ExtendedAttributes() => [];
}
