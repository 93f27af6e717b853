// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// The clusters of an image file that no table refers to, looked for when the first user comes. The image stays open
/// meanwhile. Until then nothing but its header and its length is asked for.
/// </summary>
internal sealed class UnreferencedSource(HostedImage image) : DiskSource
{
    private long _allocatedBytes = -1;

    /// <summary>The length of the image file, rounded up to clusters.</summary>
    public override long Length
    {
        get
        {
            if (Current is { } device)
                return device.Length;
            ImageFacts facts = image.KnownFacts();
            long cluster = facts.ClusterSize;
            return cluster == 0 ? 0 : (facts.FileLength + cluster - 1) / cluster * cluster;
        }
    }

    /// <summary>
    /// As large as it was when somebody looked last. Before that all but a cluster: copying programs take a file
    /// without any for empty, and look for holes only where there is less than all.
    /// </summary>
    public override long AllocatedBytes
    {
        get
        {
            long known = Volatile.Read(ref _allocatedBytes);
            return known >= 0 ? known : Math.Max(Length - image.KnownFacts().ClusterSize, 0);
        }
    }

    /// <inheritdoc/>
    public override bool IsReadOnly => true;

    /// <summary>Whether the image is of a format in which clusters have references.</summary>
    public bool Exists => image.KnownFacts().ClusterSize > 0;

    /// <inheritdoc/>
    protected override BlockDevice Open()
    {
        BlockDevice top = image.Acquire();
        try
        {
            BlockDevice device = (FilterDevice.Unwrap(top) as IUnreferenced)?.OpenUnreferenced()
                ?? throw new BlockException(BlockErrorKind.NotSupported, $"{top.Name}: has no clusters");
            Volatile.Write(ref _allocatedBytes, device.AllocatedBytes);
            return device;
        }
        catch
        {
            image.Release();
            throw;
        }
    }

    /// <inheritdoc/>
    protected override void Close(BlockDevice device)
    {
        device.Dispose();
        image.Release();
    }
}
