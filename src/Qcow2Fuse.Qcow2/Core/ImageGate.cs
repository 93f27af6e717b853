// SPDX-License-Identifier: MIT
using System.Diagnostics;

namespace Qcow2Fuse.Qcow2.Core;

/// <summary>The gate of an image: the one monitor that guards all its metadata.</summary>
/// <remarks>
/// Guest data is read and written without it. It is the monitor of this object, so whoever knows only of monitors, as
/// the caches of tables do, is given the gate itself.
/// </remarks>
internal sealed class ImageGate
{
    /// <summary>Takes the gate, for <c>using</c>.</summary>
    public Held Enter()
    {
        Monitor.Enter(this);
        return new Held(this);
    }

    /// <summary>Takes the gate unless others keep it so long; <paramref name="held"/> is to be disposed then.</summary>
    public bool TryEnter(int milliseconds, out Held held)
    {
        held = new Held(this);
        return Monitor.TryEnter(this, milliseconds);
    }

    /// <summary>Gives the gate up, for <c>using</c>, and takes it again after that.</summary>
    public Released Release()
    {
        AssertHeld();
        Monitor.Exit(this);
        return new Released(this);
    }

    /// <summary>Gives the gate up until somebody calls <see cref="PulseAll"/>.</summary>
    public void Wait() => Monitor.Wait(this);

    /// <summary>As <see cref="Wait()"/>, and not longer than that.</summary>
    public void Wait(int milliseconds) => Monitor.Wait(this, milliseconds);

    /// <summary>Wakes all who wait.</summary>
    public void PulseAll() => Monitor.PulseAll(this);

    /// <summary>For methods that are called with the gate held.</summary>
    [Conditional("DEBUG")]
    public void AssertHeld() => Debug.Assert(Monitor.IsEntered(this), "The gate is not held.");

    /// <summary>The gate is held until this is disposed.</summary>
    public readonly ref struct Held(ImageGate gate)
    {
        public void Dispose() => Monitor.Exit(gate);
    }

    /// <summary>The gate is not held until this is disposed.</summary>
    public readonly ref struct Released(ImageGate gate)
    {
        public void Dispose() => Monitor.Enter(gate);
    }
}
