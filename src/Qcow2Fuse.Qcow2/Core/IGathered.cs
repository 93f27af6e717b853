// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Qcow2.Core;

/// <summary>What the guest has written and no table says yet, for whoever needs it in the tables.</summary>
/// <remarks>
/// Whoever holds guest writes back (<c>WriteHold.HoldWrites</c>) stores it before that, which would wait for those who
/// store. The gate is not held.
/// </remarks>
internal interface IGathered
{
    /// <summary>
    /// Stores all that was gathered before the call. When it returns or throws, <see cref="TakeFailure"/> knows of
    /// whatever failed of that.
    /// </summary>
    /// <exception cref="BlockException">Something could not be stored; it is still gathered.</exception>
    void StoreAll();

    /// <summary>
    /// Stores all that was gathered, and lets nothing be gathered, zeroed or discarded before <see cref="Resume"/>:
    /// what the image is then is what the guest has written up to one moment.
    /// </summary>
    /// <exception cref="BlockException">As <see cref="StoreAll"/>; nothing is paused then.</exception>
    void Pause();

    /// <summary>Ends what <see cref="Pause"/> began.</summary>
    void Resume();

    /// <summary>
    /// The first failure that nobody was told of since the last call, or null; the caller reports it. What it is about
    /// may have been stored since then.
    /// </summary>
    BlockException? TakeFailure();
}
