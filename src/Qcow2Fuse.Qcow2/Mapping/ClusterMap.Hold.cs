// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2;

/// <summary>
/// Holding guest writes back while the whole image changes: a snapshot, a shrink, a table that moves.
/// </summary>
internal sealed partial class ClusterMap
{
    private bool _held;

    /// <summary>
    /// Keeps writes, zeroes and discards from starting and waits until those under way have ended, plain overwrites
    /// included; reads go on. Pair with <see cref="ReleaseWrites"/>; one holder at a time. The gate is held and
    /// released meanwhile.
    /// </summary>
    public void HoldWrites()
    {
        WaitWhileHeld();
        _held = true;
        try
        {
            while (InFlight.Any || _creatingTable)
                Monitor.Wait(_gate);
            long epoch = _caches.Epochs.Current;
            while (!_caches.Epochs.HasEnded(epoch))
                Monitor.Wait(_gate, millisecondsTimeout: 1);
        }
        catch
        {
            ReleaseWrites();
            throw;
        }
    }

    /// <summary>Lets writes go on.</summary>
    public void ReleaseWrites()
    {
        _held = false;
        Monitor.PulseAll(_gate);
    }

    private void WaitWhileHeld()
    {
        while (_held)
            Monitor.Wait(_gate);
    }
}
