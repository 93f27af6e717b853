// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Allocating space before it is written.</summary>
public sealed partial class Qcow2Device
{
    private const int PreallocationStep = 1 << 28;

    /// <summary>
    /// Allocates every cluster that begins between two guest offsets and has no place yet, reading as zeroes.
    /// </summary>
    private void Preallocate(long from, long to, Preallocation mode)
    {
        long end = _geometry.RoundUpToCluster(to);
        for (long at = _geometry.RoundUpToCluster(from); at < end;)
        {
            WriteMapping mapping;
            using (_gate.Enter())
            {
                _caches.ThrowIfFailed();
                mapping = _map.Allocate(new GuestOffset(at), (int)Math.Min(end - at, PreallocationStep));
            }

            if (mapping.Allocation is null)
                _caches.Epochs.Exit(mapping.Epoch);
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
            Fill(allocation.RequestStart, host, length, _guestData.IsEncrypted ? Preallocation.Full : mode,
                allocation.IsVirgin);
            using (_gate.Enter())
                _map.Link(allocation);
            linked = true;
        }
        finally
        {
            if (!linked)
            {
                using (_gate.Enter())
                    _map.Abort(allocation);
            }
        }
    }

    /// <summary>Makes new clusters read as zeroes. Zero bytes of the host are no zeroes of an encrypted disk.</summary>
    private void Fill(GuestOffset guest, HostOffset host, int length, Preallocation mode, bool isVirgin)
    {
        switch (mode)
        {
            case Preallocation.Full:
                WriteZeroBytes(guest, host, length);
                break;
            case Preallocation.Metadata when IsRawExternal:
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

    private void WriteZeroBytes(GuestOffset guest, HostOffset host, long length)
    {
        using PooledBuffer zeroes = BufferPool.Shared.Rent((int)Math.Min(length, 1 << 20));
        zeroes.Span.Clear();
        for (long done = 0; done < length;)
        {
            int step = (int)Math.Min(length - done, zeroes.Span.Length);
            _guestData.Write(guest + done, host + done, [], zeroes.Span[..step], []);
            done += step;
        }
    }
}
