// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Compression;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>
/// Flushing by itself a while after metadata has changed, so that a process that is killed loses no more than that
/// while.
/// </summary>
/// <remarks>
/// The first change after a flush sets a timer, which goes off once: a disk on which nothing is allocated wakes nobody.
/// A flush of the guest meanwhile leaves it nothing to do, unless something has been gathered that the flush did not
/// look for any more. Overwriting in place changes no metadata. A flush that fails here is told of by the guest's next
/// one, also if that succeeds, and is tried again in its time.
/// </remarks>
internal sealed class CommitTimer(
    ImageCore image, DurableFile durable, MetadataFlush flush, GatheredSlots? gathered, TimeSpan interval) : IDisposable
{
    private readonly ImageGate _gate = image.Gate;
    private Timer? _timer;
    private Flusher? _flusher;

    // All with the gate held.
    private bool _isSet;
    private long _wantedFlush;
    private BlockException? _failure;

    /// <summary>Whether the timer is set.</summary>
    public bool IsSet
    {
        get
        {
            using (_gate.Enter())
                return _isSet;
        }
    }

    /// <summary>Has the timer flush from now on, unless there is no interval or nothing to be written.</summary>
    public void Start(Flusher flusher)
    {
        if (interval <= TimeSpan.Zero || image.IsReadOnly)
            return;
        _flusher = flusher;
        _timer = new Timer(Commit, state: null, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
    }

    /// <summary>Says that metadata has changed; the gate is held.</summary>
    public void NoteChange()
    {
        _gate.AssertHeld();
        if (_timer is null)
            return;
        _wantedFlush = flush.Next;
        Set();
    }

    /// <summary>Says that something was gathered, which is in no table yet.</summary>
    public void NoteGathered()
    {
        if (_timer is null)
            return;
        using (_gate.Enter())
            Set();
    }

    /// <summary>Keeps a failure that nobody has waited for, unless there is one already.</summary>
    public void NoteFailure(BlockException failure)
    {
        using (_gate.Enter())
            _failure ??= failure;
    }

    /// <summary>The first failure since the last call, or null; the caller reports it.</summary>
    public BlockException? TakeFailure()
    {
        BlockException? failure;
        using (_gate.Enter())
        {
            failure = _failure;
            _failure = null;
        }

        return failure is null
            ? null : new BlockException(failure.Kind, failure.Message, failure, failure.Cause);
    }

    /// <summary>Ends the timer, and waits for a flush that it has begun. Nobody writes any more.</summary>
    public void Stop()
    {
        if (_timer is null)
            return;
        using (_gate.Enter())
            _isSet = true;
        using ManualResetEvent hasEnded = new(initialState: false);
        if (_timer.Dispose(hasEnded))
            hasEnded.WaitOne();
    }

    public void Dispose() => _timer?.Dispose();

    /// <summary>Sets the timer unless it is set; the gate is held.</summary>
    private void Set()
    {
        if (_isSet)
            return;
        _isSet = true;
        _timer!.Change(interval, Timeout.InfiniteTimeSpan);
    }

    private void Commit(object? state)
    {
        using (_gate.Enter())
        {
            _isSet = false;
            bool isDurable = flush.Completed >= _wantedFlush && gathered is not { HoldsAny: true };
            if (durable.HasFailed || isDurable)
                return;
        }

        try
        {
            _flusher!.FlushUnmarked();
        }
        catch (Exception e)
        {
            // A thread must not end the process; the next flush passes it on.
            BlockException failure = e as BlockException
                ?? new BlockException(BlockErrorKind.Io, $"{image.Name}: could not be flushed: {e.Message}", e);
            if (failure.IsSpreading)
                image.Corrupt.Set();
            using (_gate.Enter())
            {
                _failure ??= failure;
                if (!durable.HasFailed)
                    NoteChange();
            }
        }
    }
}
