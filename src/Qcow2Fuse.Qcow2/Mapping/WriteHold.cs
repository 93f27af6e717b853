// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// Holding guest writes back while the whole image changes: a snapshot, a shrink, a table that moves.
/// </summary>
/// <remarks>All methods are called with the image's gate held.</remarks>
internal sealed class WriteHold(ImageGate gate, OperationEpochs epochs, InFlightAllocations inFlight)
{
    private bool _isLookedAt;

    /// <summary>Whether writes are held back.</summary>
    public bool IsHeld { get; private set; }

    /// <summary>
    /// Keeps writes, zeroes and discards from starting and waits until those under way have ended, plain overwrites
    /// included; reads go on. Pair with <see cref="ReleaseWrites"/>; one holder at a time. The gate is held and
    /// released meanwhile.
    /// </summary>
    public void HoldWrites()
    {
        gate.AssertHeld();
        while (IsHeld || _isLookedAt)
            gate.Wait();
        IsHeld = true;
        try
        {
            while (inFlight.Any)
                gate.Wait();
            long epoch = epochs.Current;
            while (!epochs.HasEnded(epoch))
                gate.Wait(milliseconds: 1);
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
        gate.AssertHeld();
        IsHeld = false;
        gate.PulseAll();
    }

    /// <summary>
    /// Keeps others from holding writes back while tables are read, with nobody held back; to be called by who holds
    /// them. Pair with <see cref="EndLook"/>. The gate is held.
    /// </summary>
    public void BeginLook()
    {
        gate.AssertHeld();
        _isLookedAt = true;
    }

    /// <summary>Lets others hold writes back.</summary>
    public void EndLook()
    {
        gate.AssertHeld();
        _isLookedAt = false;
        gate.PulseAll();
    }

    /// <summary>For a write that has not begun: releases the gate until writes are not held back.</summary>
    public void WaitWhileHeld()
    {
        while (IsHeld)
            gate.Wait();
    }
}
