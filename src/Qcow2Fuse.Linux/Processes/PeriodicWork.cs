// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// Does something again and again, never twice at a time: the next time is a period after the end of the last one, so
/// that work that hangs has one thread and no more. What fails there is nobody's request, and must not end the process
/// with all its disks: it is told, and tried again.
/// </summary>
public sealed class PeriodicWork : IDisposable
{
    private readonly Lock _lock = new();
    private readonly TimeSpan _period;
    private readonly Action _work;
    private readonly Action<Exception> _onFailure;
    private readonly Timer _timer;
    private bool _isOver;

    /// <summary>Begins; the first time is after a period.</summary>
    /// <param name="period">How long nothing is done in between.</param>
    /// <param name="work">What to do, on a thread of the pool.</param>
    /// <param name="onFailure">Told what the work has thrown.</param>
    public PeriodicWork(TimeSpan period, Action work, Action<Exception> onFailure)
    {
        _period = period;
        _work = work;
        _onFailure = onFailure;
        _timer = new Timer(
            static self => ((PeriodicWork)self!).Run(), this, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        _ = _timer.Change(period, Timeout.InfiniteTimeSpan);
    }

    /// <summary>Ends it, and waits for work that has begun.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _isOver = true;
            _timer.Dispose();
        }
    }

    private void Run()
    {
        lock (_lock)
        {
            if (_isOver)
                return;
            try
            {
                Guarded.Run(_work, _onFailure);
            }
            finally
            {
                _ = _timer.Change(_period, Timeout.InfiniteTimeSpan);
            }
        }
    }
}
