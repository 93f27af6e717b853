// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Server;

/// <summary>
/// Lets few of the workers wait for requests: the kernel wakes one for each request, in turn, and with all of them
/// there a burst of requests would wake them all for what two can do. The others wait here, and are called when too few
/// are left.
/// </summary>
/// <param name="least">Workers that wait for requests while others serve some, if there are so many.</param>
/// <param name="most">Workers that wait for requests; no more are let in.</param>
internal sealed class ReaderGate(int least, int most)
{
    private readonly object _lock = new();
    private int _inside;
    private int _outside;
    private int _called;
    private bool _isOpen;

    /// <summary>Called by a worker that is going to wait for requests; waits until there is a place.</summary>
    /// <param name="isDeep">Whether requests keep nobody busy: one more than the least are then enough.</param>
    public void Enter(bool isDeep)
    {
        lock (_lock)
        {
            if (_inside + _called >= (isDeep ? least + 1 : most))
                AwaitCall();
            _inside++;
        }
    }

    /// <summary>Called by a worker that does not wait any more; sees to it that somebody does.</summary>
    public void Leave()
    {
        lock (_lock)
        {
            _inside--;
            Keep(1);
        }
    }

    /// <summary>Called, outside, by a worker that has something to do that may take long.</summary>
    public void CallOthers()
    {
        lock (_lock)
            Keep(least);
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

    private void Keep(int count)
    {
        if (_inside + _called >= count || _outside == _called)
            return;
        _called++;
        Monitor.Pulse(_lock);
    }

    private void AwaitCall()
    {
        _outside++;
        while (_called == 0 && !_isOpen)
            Monitor.Wait(_lock);
        _called = Math.Max(_called - 1, 0);
        _outside--;
    }
}
