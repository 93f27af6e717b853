// SPDX-License-Identifier: MIT
using System.Diagnostics;

namespace Qcow2Fuse.Block.Live;

/// <summary>
/// A door that any number of requests pass through, and that can be shut: then those that are inside are waited for,
/// and others wait outside.
/// </summary>
/// <remarks>Passing an open door takes two atomic operations, no lock, and allocates nothing.</remarks>
internal sealed class Door
{
    private readonly object _lock = new();
    private int _inside;
    private volatile bool _isShut;

    /// <summary>Goes in; waits where the door is shut.</summary>
    public void Enter()
    {
        while (!TryEnter())
        {
            lock (_lock)
            {
                while (_isShut)
                    Monitor.Wait(_lock);
            }
        }
    }

    /// <summary>Goes in if the door is open. Waits for nothing.</summary>
    public bool TryEnter()
    {
        // Counted before the look: whoever shuts the door sees the count, or is seen here.
        Interlocked.Increment(ref _inside);
        if (!_isShut)
            return true;
        Leave();
        return false;
    }

    /// <summary>Goes out; any thread.</summary>
    public void Leave()
    {
        int left = Interlocked.Decrement(ref _inside);
        Debug.Assert(left >= 0, "somebody leaves who has not come in");
        if (left > 0 || !_isShut)
            return;
        lock (_lock)
            Monitor.PulseAll(_lock);
    }

    /// <summary>
    /// Shuts the door, and waits until nobody is inside; waits before that while somebody else has it shut. Never to be
    /// called from inside.
    /// </summary>
    public void Shut()
    {
        lock (_lock)
        {
            while (_isShut)
                Monitor.Wait(_lock);
            _isShut = true;
            Interlocked.MemoryBarrier();
            while (Volatile.Read(ref _inside) > 0)
                Monitor.Wait(_lock);
        }
    }

    /// <summary>Opens it again.</summary>
    public void Open()
    {
        lock (_lock)
        {
            Debug.Assert(_isShut, "the door is open");
            _isShut = false;
            Monitor.PulseAll(_lock);
        }
    }
}
