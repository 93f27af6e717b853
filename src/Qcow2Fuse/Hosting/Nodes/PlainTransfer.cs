// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>What is remembered of a transfer while the kernel does it; used again by the next one.</summary>
internal sealed class PlainTransfer
{
    private RawFileNode? _node;
    private BlockDevice? _device;
    private PlainRun _run;
    private bool _isWrite;
    private long _start;
    private int _length;
    private long _started;

    private PlainTransfer()
    {
    }

    /// <summary>Begins a transfer to or from <paramref name="start"/> of the disk, if the disk lets it.</summary>
    public static bool TryBegin(FuseTransfer transfer, RawFileNode node, BlockDevice device, long start)
    {
        long started = Stopwatch.GetTimestamp();
        if (transfer.IsWrite && !node.Writes.TryBeginUnordered())
            return false;
        if (!device.TryBeginPlain(start, transfer.Length, transfer.IsWrite, out PlainRun run))
        {
            if (transfer.IsWrite)
                node.Writes.EndUnordered();
            return false;
        }

        transfer.Kind = run.Kind == PlainRunKind.Zeroes ? FuseTransferKind.Zeroes : FuseTransferKind.File;
        transfer.Descriptor = run.Descriptor;
        transfer.Offset = run.Offset;
        transfer.IsCached = run.IsCached;
        if (transfer.State is not PlainTransfer kept)
            transfer.State = kept = new PlainTransfer();
        kept._node = node;
        kept._device = device;
        kept._run = run;
        kept._isWrite = transfer.IsWrite;
        kept._start = start;
        kept._length = transfer.Length;
        kept._started = started;
        return true;
    }

    /// <summary>Ends it. What was not done is neither counted nor told: it is done again.</summary>
    public void End(bool isDone)
    {
        _device!.EndPlain(_run);
        if (isDone)
            _node!.NoteTransfer(_isWrite, _start, _length, _started);
        if (_isWrite)
            _node!.Writes.EndUnordered();

        // An image that is closed meanwhile is not to be kept in memory by what is no longer its.
        _device = null;
        _node = null;
        _run = default;
    }
}
