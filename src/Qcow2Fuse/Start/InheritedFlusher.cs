// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Fuse;

namespace Qcow2Fuse.Start;

/// <summary>
/// While it lasts, what the calling thread starts need not wait for the mount to find memory (PR_SET_IO_FLUSHER). The
/// runtime has threads before any code of ours runs, which can hold up a worker: only a new process gets all of its
/// threads so.
/// </summary>
internal readonly ref struct InheritedFlusher
{
    private readonly bool _isSet;

    private InheritedFlusher(bool isSet) => _isSet = isSet;

    /// <summary>Sets it, where that is permitted; end it on the same thread.</summary>
    public static InheritedFlusher Begin() => new(ServingThread.TrySetIOFlusher() == 0);

    /// <summary>The starter itself is no flusher.</summary>
    public void Dispose()
    {
        if (_isSet)
            _ = ServingThread.TrySetIOFlusher(on: false);
    }
}
