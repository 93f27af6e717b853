// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Mounts;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>Size, times, modes and extended attributes of the file.</summary>
internal sealed partial class RawFileNode
{
    private static readonly TimeSpan VolatileTimeout = TimeSpan.FromSeconds(1);

    private bool MayResize => _context.Settings.Resize && IsWholeDisk;

    /// <inheritdoc/>
    public override FuseAttributes Attributes()
    {
        FuseTime modified = FuseTime.FromUtc(new DateTime(Image.ModifiedTicks, DateTimeKind.Utc));
        uint mode = _mode ?? _context.Ownership.FileMode(Source.IsReadOnly);
        return _context.Attributes(this, mode, links: 1) with
        {
            Size = Length,
            AllocatedBytes = AllocatedBytes,
            Accessed = modified,
            Modified = modified,
            Changed = modified,
            CacheTimeout = IsView ? TimeSpan.Zero : Image.IsVolatile ? VolatileTimeout : null,
        };
    }

    /// <inheritdoc/>
    public override int SetAttributes(in FuseAttributeChange change, out FuseAttributes attributes)
    {
        attributes = default;
        FileOwnership ownership = _context.Ownership;
        if ((change.Uid is { } uid && uid != ownership.UserId) || (change.Gid is { } gid && gid != ownership.GroupId))
            return -Errno.EPERM;

        if (change.Size is { } size && size != Length && TryResize(size) is not 0 and var error)
            return error;

        if (change.Mode is { } mode)
            _mode = mode & PermissionMask;
        if (change.Modified is { } time)
            Image.ModifiedTicks = ImageAttributes.TicksOf(time);
        attributes = Attributes();
        return 0;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<(string Name, string Value)> ExtendedAttributes() => ImageAttributes.Of(Image);

    /// <summary>Resizes the disk where the user allows it; else says in the log, once, how to.</summary>
    private int TryResize(long size)
    {
        if (!MayResize)
        {
            if (IsWholeDisk)
                Image.RefuseResize(RawFileName.For(Image.Path));
            return -Errno.EPERM;
        }

        // truncate(2) works on a file that nobody has open.
        BlockDevice device = Source.Acquire();
        try
        {
            if (device.IsReadOnly)
                return -Errno.EROFS;
            Changes.Resize(device, size);
            return 0;
        }
        finally
        {
            Source.Release();
        }
    }
}
