// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Transport;

/// <summary>
/// A way for requests beside <see cref="IFuseTransport"/>, used by one thread from <see cref="Open"/> to
/// <see cref="Close"/>, which never waits elsewhere. Once the kernel has entries of every queue, all requests that want
/// a reply come this way.
/// </summary>
public interface IFuseRing : IDisposable
{
    /// <summary>The processor whose requests come here; null for a ring of processors that do not run.</summary>
    int? Processor { get; }

    /// <summary>Entries, and so requests at once.</summary>
    int Count { get; }

    /// <summary>Sets the ring up, before INIT is answered. 0 or a negated error number.</summary>
    int Open();

    /// <summary>
    /// Gives the entries to the kernel, after INIT was answered. 0 or a negated error number, after which the session
    /// cannot go on: the kernel waits for all entries.
    /// </summary>
    int Register();

    /// <summary>
    /// Starts all that was given to <see cref="Reply"/> and <see cref="Transfer"/>, and waits for the next thing to
    /// happen.
    /// </summary>
    FuseRingEvent Receive();

    /// <summary>Has the reply that is complete in <paramref name="entry"/> sent by the next call.</summary>
    void Reply(FuseRingEntry entry);

    /// <summary>
    /// Has the transfer of <paramref name="entry"/>, between its payload and a file, started by the next call.
    /// </summary>
    void Transfer(FuseRingEntry entry);

    /// <summary>
    /// Does the transfer of <paramref name="entry"/>, a read, at once as far as it waits for nothing. The bytes moved,
    /// or a negated error number.
    /// </summary>
    int TryReadNow(FuseRingEntry entry);

    /// <summary>
    /// Makes the <see cref="Receive"/> that waits return, or the next one. Called by any thread until
    /// <see cref="IDisposable.Dispose"/>.
    /// </summary>
    void Wake();

    /// <summary>Sends outstanding replies and gives the ring up. No transfer may be under way.</summary>
    void Close();
}

/// <summary>What has happened on a ring.</summary>
public enum FuseRingEventKind
{
    /// <summary>Nothing, but <see cref="IFuseRing.Wake"/> was called, or a signal has come.</summary>
    Woken,

    /// <summary>The entry has a request of as many bytes as the value says.</summary>
    Request,

    /// <summary>The entry's transfer has ended; the value is the bytes it moved or a negated error number.</summary>
    Transferred,

    /// <summary>No request will come any more; transfers still end.</summary>
    Ended,

    /// <summary>The kernel has refused an entry with the negated error number that is the value; as after the end.
    /// </summary>
    Failed,

    /// <summary>The ring itself does not work any more: nothing will happen, and no transfer is seen to end.</summary>
    Broken,
}

/// <summary>What has happened on a ring, and to which of its entries.</summary>
public readonly record struct FuseRingEvent(FuseRingEventKind Kind, FuseRingEntry? Entry = null, int Value = 0);
