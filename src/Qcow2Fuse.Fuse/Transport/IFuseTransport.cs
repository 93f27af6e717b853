// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Transport;

/// <summary>The way to the kernel: requests come from it and replies go to it.</summary>
/// <remarks>
/// Receive and Reply block and may be called from any number of threads at once, each with its own slot. The reply
/// to a request goes through the slot it came with, before the slot receives again, or later through another one with
/// the same descriptor.
/// </remarks>
public interface IFuseTransport : IDisposable
{
    /// <summary>Makes the buffers (and what else the transport needs) for one more worker.</summary>
    /// <param name="payloadCapacity">Most bytes of data in one request, a multiple of 4096, at least 8192.</param>
    FuseSlot CreateSlot(int payloadCapacity);

    /// <summary>
    /// Waits for a request. Returns its length in bytes, 0 when <paramref name="slot"/> was interrupted, and −1
    /// when no more will come.
    /// </summary>
    int Receive(FuseSlot slot);

    /// <summary>Sends the first <paramref name="length"/> bytes at <see cref="FuseSlot.Reply"/>.</summary>
    void Reply(FuseSlot slot, int length);

    /// <summary>
    /// Sends a message that answers no request (FUSE_NOTIFY_*). May block until other requests have been answered,
    /// so it is never called on a worker.
    /// </summary>
    /// <returns>0 or more, or the negated error number; −ENOSYS from a transport that has no way to.</returns>
    int Notify(ReadOnlySpan<byte> message) => -Errno.ENOSYS;

    /// <summary>
    /// Makes a <see cref="Receive"/> that waits on <paramref name="slot"/> return 0. One that has not begun to wait
    /// may miss it, so it is called again until the worker is seen to have ended.
    /// </summary>
    void Interrupt(FuseSlot slot);

    /// <summary>
    /// Makes rings (FUSE over io_uring) that can take the requests over after INIT: one for each thread that is to
    /// take requests. They do nothing before <see cref="IFuseRing.Open"/>.
    /// </summary>
    /// <param name="payloadCapacity">As for <see cref="CreateSlot"/>.</param>
    /// <param name="refusal">Why there are none, for people; empty where there are some.</param>
    /// <returns>The rings; none where the kernel or this transport has no such way.</returns>
    IReadOnlyList<IFuseRing> CreateRings(int payloadCapacity, out string refusal)
    {
        refusal = "this transport has none";
        return [];
    }

    /// <summary>Releases what <see cref="CreateSlot"/> made.</summary>
    void ReleaseSlot(FuseSlot slot);
}
