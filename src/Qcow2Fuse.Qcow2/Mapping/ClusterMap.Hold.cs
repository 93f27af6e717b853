// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// Holding guest writes back while the whole image changes: a snapshot, a shrink, a table that moves.
/// </summary>
internal sealed partial class ClusterMap
{
    private bool _held;
    private bool _isLookedAt;

    /// <summary>
    /// Keeps writes, zeroes and discards from starting and waits until those under way have ended, plain overwrites
    /// included; reads go on. Pair with <see cref="ReleaseWrites"/>; one holder at a time. The gate is held and
    /// released meanwhile.
    /// </summary>
    public void HoldWrites()
    {
        _gate.AssertHeld();
        while (_held || _isLookedAt)
            _gate.Wait();
        _held = true;
        try
        {
            while (InFlight.Any || _creatingTable)
                _gate.Wait();
            long epoch = _caches.Epochs.Current;
            while (!_caches.Epochs.HasEnded(epoch))
                _gate.Wait(milliseconds: 1);
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
        _gate.AssertHeld();
        _held = false;
        _gate.PulseAll();
    }

    /// <summary>
    /// Keeps others from holding writes back while tables are read, with nobody held back; to be called by who holds
    /// them. Pair with <see cref="EndLook"/>. The gate is held.
    /// </summary>
    public void BeginLook()
    {
        _gate.AssertHeld();
        _isLookedAt = true;
    }

    /// <summary>Lets others hold writes back.</summary>
    public void EndLook()
    {
        _gate.AssertHeld();
        _isLookedAt = false;
        _gate.PulseAll();
    }

    private void WaitWhileHeld()
    {
        while (_held)
            _gate.Wait();
    }
}
