// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Protocols.Files;

/// <summary>
/// fdatasync(2) of one file for many threads. One call serves all who asked before it began, and after one has
/// failed all later ones fail: the kernel reports lost pages to one caller only and then forgets them, so that a
/// second try would succeed without the data being on the disk.
/// </summary>
/// <param name="sync">Flushes: 0, or −errno. Must not throw.</param>
internal sealed class SharedFlush(Func<int> sync)
{
    private readonly object _lock = new();
    private long _started;
    private long _finished;
    private int _failure;

    /// <summary>The error number of the first failure, 0 while there is none.</summary>
    public int Failure => Volatile.Read(ref _failure);

    /// <summary>Makes all that was written before the call durable: 0, or the error number of the failure.</summary>
    public int Run()
    {
        lock (_lock)
        {
            long wanted = _started + 1;
            while (_failure == 0 && _finished < wanted)
            {
                if (_started == _finished)
                    SyncLocked();
                else
                    Monitor.Wait(_lock);
            }

            return _failure;
        }
    }

    /// <summary>Releases the lock while the call runs.</summary>
    private void SyncLocked()
    {
        _started++;
        Monitor.Exit(_lock);
        int result = sync();
        Monitor.Enter(_lock);
        _finished++;
        if (result < 0 && _failure == 0)
            _failure = -result;
        Monitor.PulseAll(_lock);
    }
}
