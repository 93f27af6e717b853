// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse;

/// <summary>
/// A way for requests beside <see cref="IFuseTransport"/>, used by one thread from <see cref="Open"/> to
/// <see cref="Close"/>. Once the kernel has entries of every queue, all requests that want a reply come this way.
/// </summary>
public interface IFuseRing : IDisposable
{
    /// <summary>The processor whose requests come here; null for a ring of processors that do not run.</summary>
    int? Processor { get; }

    /// <summary>Sets the ring up, before INIT is answered. 0 or a negated error number.</summary>
    int Open();

    /// <summary>
    /// Gives the entries to the kernel, after INIT was answered. 0 or a negated error number, after which the session
    /// cannot go on: the kernel waits for all entries.
    /// </summary>
    int Register();

    /// <summary>
    /// Sends the replies given to <see cref="Reply"/> and waits for a request. Returns its length in bytes, 0 when the
    /// thread was interrupted, −ENOTCONN when no more will come, and another negated error number after a failure.
    /// </summary>
    int Receive(out FuseRingEntry? entry);

    /// <summary>Has the reply that is complete in <paramref name="entry"/> sent by the next call.</summary>
    void Reply(FuseRingEntry entry);

    /// <summary>
    /// Makes a <see cref="Receive"/> that waits return 0; called by other threads, again and again, as
    /// <see cref="IFuseTransport.Interrupt"/> is.
    /// </summary>
    void Interrupt();

    /// <summary>Sends outstanding replies and gives the ring up.</summary>
    void Close();
}
