// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Transport;

/// <summary>
/// The request that a thread serves, for work that may take long: who asked may be killed meanwhile, and stays
/// unkillable until the request is answered.
/// </summary>
public sealed class FuseCall
{
    [ThreadStatic]
    private static FuseCall? _current;

    private ulong _unique;
    private volatile bool _isInterrupted;

    /// <summary>The request that the calling thread serves; null where it serves none.</summary>
    public static FuseCall? Current => _current;

    /// <summary>Whether the kernel has said that nobody waits for the answer any more: it may be −EINTR.</summary>
    public bool IsInterrupted => _isInterrupted;

    /// <summary>The kernel's number of the request, which none had before; 0 between requests.</summary>
    internal ulong Unique => Volatile.Read(ref _unique);

    internal void Begin(ulong unique)
    {
        _isInterrupted = false;
        Volatile.Write(ref _unique, unique);
        _current = this;
    }

    internal void End()
    {
        _current = null;
        Volatile.Write(ref _unique, 0);
    }

    internal void Interrupt() => _isInterrupted = true;
}
