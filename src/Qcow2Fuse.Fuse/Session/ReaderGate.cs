// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse;

/// <summary>
/// Lets few of the workers wait for requests: the kernel wakes one for each request, in turn, and with all of them
/// there a burst of requests would wake them all for what two can do. The others wait here, and are called when too few
/// are left.
/// </summary>
/// <param name="least">Workers that wait for requests as long as there are others to be called.</param>
/// <param name="most">Workers that wait for requests; no more are let in.</param>
internal sealed class ReaderGate(int least, int most)
{
    private readonly object _lock = new();
    private int _inside;
    private int _outside;
    private int _called;
    private bool _isOpen;

    /// <summary>Called by a worker that is going to wait for requests; waits until there is a place.</summary>
    public void Enter()
    {
        lock (_lock)
        {
            if (_inside + _called < most || _isOpen)
                _inside++;
            else
                AwaitCall();
        }
    }

    /// <summary>Called by a worker that has something else to do.</summary>
    public void Leave()
    {
        lock (_lock)
        {
            _inside--;
            if (_inside + _called >= least || _outside == _called)
                return;
            _called++;
            Monitor.Pulse(_lock);
        }
    }

    /// <summary>
    /// Called by a worker inside while requests are such as keep nobody busy: waits outside if there are others.
    /// </summary>
    public void Yield()
    {
        if (Volatile.Read(ref _inside) <= least)
            return;
        lock (_lock)
        {
            if (_inside <= least || _isOpen)
                return;
            _inside--;
            AwaitCall();
        }
    }

    /// <summary>Lets all in, now and from now on.</summary>
    public void Open()
    {
        lock (_lock)
        {
            _isOpen = true;
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>With the lock held; inside when it returns.</summary>
    private void AwaitCall()
    {
        _outside++;
        while (_called == 0 && !_isOpen)
            Monitor.Wait(_lock);
        _called = Math.Max(_called - 1, 0);
        _outside--;
        _inside++;
    }
}
