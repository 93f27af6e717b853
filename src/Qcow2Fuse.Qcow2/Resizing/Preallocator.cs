// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Resizing;

/// <summary>Allocates space before it is written.</summary>
internal sealed class Preallocator(
    ImageCore image, DurableFile durable, OperationEpochs epochs, ClusterAllocations allocations,
    GuestData guestData)
{
    private const int StepBytes = 1 << 28;

    private readonly BlockDevice _data = image.Data;
    private readonly Qcow2Geometry _geometry = image.Geometry;
    private readonly ImageGate _gate = image.Gate;

    /// <summary>
    /// Allocates every cluster that begins between two guest offsets and has no place yet, reading as zeroes.
    /// </summary>
    public void Allocate(long from, long to, Preallocation mode)
    {
        long end = _geometry.RoundUpToCluster(to);
        for (long at = _geometry.RoundUpToCluster(from); at < end;)
        {
            WriteMapping mapping;
            using (_gate.Enter())
            {
                durable.ThrowIfFailed();
                mapping = allocations.Allocate(new GuestOffset(at), (int)Math.Min(end - at, StepBytes));
            }

            if (mapping.Allocation is null)
                epochs.Exit(mapping.Epoch);
            else
                FillAndLink(mapping.Allocation, mapping.Host, mapping.Length, mode);
            at += mapping.Length;
        }
    }

    private void FillAndLink(ClusterAllocation allocation, HostOffset host, int length, Preallocation mode)
    {
        bool linked = false;
        try
        {
            Fill(allocation.RequestStart, host, length, guestData.IsEncrypted ? Preallocation.Full : mode,
                allocation.IsVirgin);
            using (_gate.Enter())
                allocations.Link(allocation);
            linked = true;
        }
        finally
        {
            if (!linked)
            {
                using (_gate.Enter())
                    allocations.Abort(allocation);
            }
        }
    }

    /// <summary>Makes new clusters read as zeroes. Zero bytes of the host are no zeroes of an encrypted disk.</summary>
    private void Fill(GuestOffset guest, HostOffset host, int length, Preallocation mode, bool isVirgin)
    {
        switch (mode)
        {
            case Preallocation.Full:
                guestData.WriteZeroBytes(guest, host, length);
                break;
            case Preallocation.Metadata when image.IsRawExternal:
                // The data file has its new size, and what it held there is zeroed.
                break;
            case Preallocation.Metadata when isVirgin:
                // A mapped cluster has to begin before the end of the file; what was never written there is zero.
                long last = host.Value + length - _geometry.ClusterSize;
                if (_data.Length < last + _geometry.ClusterSize)
                    _data.WriteZeroes(last, _geometry.ClusterSize, mayUnmap: false);
                break;
            default:
                _data.WriteZeroes(host.Value, length, mayUnmap: false);
                break;
        }
    }
}
