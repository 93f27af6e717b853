// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Qcow2.Device;

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
public sealed partial class Qcow2Device
{
    private readonly Timer? _commit;
    private readonly TimeSpan _commitInterval;

    // All with the gate held.
    private bool _isCommitSet;
    private long _commitFlush;
    private BlockException? _commitFailure;

    /// <summary>Whether the timer is set.</summary>
    internal bool IsCommitSet
    {
        get
        {
            using (_gate.Enter())
                return _isCommitSet;
        }
    }

    /// <summary>Says that metadata has changed; the gate is held.</summary>
    private void NoteChange()
    {
        if (_commit is null)
            return;
        _commitFlush = _caches.NextFlush;
        SetCommit();
    }

    /// <summary>Says that something was gathered, which is in no table yet.</summary>
    private void NoteGathered()
    {
        if (_commit is null)
            return;
        using (_gate.Enter())
            SetCommit();
    }

    /// <summary>Sets the timer unless it is set; the gate is held.</summary>
    private void SetCommit()
    {
        if (_isCommitSet)
            return;
        _isCommitSet = true;
        _commit!.Change(_commitInterval, Timeout.InfiniteTimeSpan);
    }

    private void Commit(object? state)
    {
        using (_gate.Enter())
        {
            _isCommitSet = false;
            bool isDurable = _caches.CompletedFlush >= _commitFlush && _target is not { HoldsAny: true };
            if (_isClosed || _caches.HasFailed || isDurable)
                return;
        }

        try
        {
            FlushAll();
        }
        catch (Exception e)
        {
            // A thread must not end the process; the next flush passes it on.
            BlockException failure = e as BlockException
                ?? new BlockException(BlockErrorKind.Io, $"{Name}: could not be flushed: {e.Message}", e);
            if (failure.IsSpreading)
                MarkCorrupt();
            using (_gate.Enter())
            {
                _commitFailure ??= failure;
                if (!_caches.HasFailed)
                    NoteChange();
            }
        }
    }

    /// <summary>The first failure since the last call, or null; the caller reports it.</summary>
    private BlockException? TakeCommitFailure()
    {
        BlockException? failure;
        using (_gate.Enter())
        {
            failure = _commitFailure;
            _commitFailure = null;
        }

        return failure is null
            ? null : new BlockException(failure.Kind, failure.Message, failure, failure.Cause);
    }

    /// <summary>Ends the timer, and waits for a flush that it has begun. Nobody writes any more.</summary>
    private void StopCommit()
    {
        if (_commit is null)
            return;
        using (_gate.Enter())
            _isCommitSet = true;
        using ManualResetEvent hasEnded = new(initialState: false);
        if (_commit.Dispose(hasEnded))
            hasEnded.WaitOne();
    }
}
