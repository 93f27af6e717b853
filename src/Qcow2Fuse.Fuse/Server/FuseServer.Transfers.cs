// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Fuse;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>Requests that workers leave to the disk, and the thread that answers them.</summary>
public sealed partial class FuseServer
{
    private TransferQueue? _transfers;

    /// <summary>Before the workers that are to use the queue start.</summary>
    private void StartTransfers()
    {
        if (!_options.QueuesTransfers)
            return;
        TransferQueue? queue = TransferQueue.TryCreate(Session, _transport, _options.MaxBackground);
        if (queue is null)
            return;
        try
        {
            if (_options.PopulateBuffers)
                queue.Populate();
            NewThread(() => Serve(queue)).Start();
        }
        catch
        {
            queue.Dispose();
            throw;
        }

        _transfers = queue;
    }

    /// <summary>Lasts longer than all workers: the last of them closes the queue.</summary>
    private void Serve(TransferQueue queue)
    {
        _ = ServingThread.TrySetIOFlusher();
        queue.Serve();
        SetEnded();
    }
}
