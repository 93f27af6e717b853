// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>Space of the file that the image does not need any more: given back to the host, or cut off.</summary>
internal sealed class HostSpace(ImageCore image, Refcounts refcounts, OverlapGuard guard, Action<ImageMessage> report)
{
    private readonly BlockDevice _file = image.File;
    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;
    private bool _toldOfDiscard;

    /// <summary>
    /// Gives a range back to the host, as far as the file reaches. Nobody relies on it: where it fails the space is
    /// kept, which the user is told once. The gate is held and released.
    /// </summary>
    public void GiveBack(long start, long length)
    {
        length = Math.Min(length, _file.Length - start);
        if (length <= 0)
            return;
        using (_gate.Release())
        {
            try
            {
                _file.Discard(start, length);
            }
            catch (BlockException e)
            {
                if (!Interlocked.Exchange(ref _toldOfDiscard, true))
                {
                    report(new ImageMessage(
                        $"{_file.Name}: unused space is not given back to the host: {e.Message}", null));
                }
            }
        }
    }

    /// <summary>
    /// Cuts the file behind the last cluster in use. Frees are durable, writes are held back, and nothing is
    /// allocated meanwhile. Where the file cannot be cut it stays as it is. The gate is held, and released while
    /// refcounts are loaded.
    /// </summary>
    public void TrimFile()
    {
        long last = (_file.Length - 1) >> _geometry.ClusterBits;
        while (last > 0 && refcounts.Get(last) == 0)
            last--;
        long end = Math.Max((last + 1) << _geometry.ClusterBits, guard.End);
        if (end >= _file.Length)
            return;
        try
        {
            _file.Resize(end);
        }
        catch (BlockException e) when (e.Kind == BlockErrorKind.NotSupported)
        {
            // A block device cannot be cut; its clusters are free all the same.
        }
    }
}
