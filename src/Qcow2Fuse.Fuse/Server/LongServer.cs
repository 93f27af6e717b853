// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Server;

/// <summary>Who serves a request that a worker, or a thread of the pool behind the rings, has taken.</summary>
internal enum LongServer
{
    /// <summary>Who has taken it.</summary>
    Worker,

    /// <summary>Who has taken it, and it may take long.</summary>
    LongByWorker,

    /// <summary>A thread of its own.</summary>
    Another,

    /// <summary>Nobody: it is refused, because all but one are busy for long.</summary>
    Nobody,
}
