// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting;

/// <summary>
/// The order of changes to one disk that several of its files are open for writing of. One at a time: what the kernel
/// writes out of an old page must not come between a change through another file and its being known.
/// </summary>
internal sealed class SharedWrites
{
    private readonly Lock _lock = new();
    private int _writtenFiles;

    /// <summary>Whether more than one file of the disk may be written.</summary>
    public bool IsShared => Volatile.Read(ref _writtenFiles) > 1;

    /// <summary>A file of the disk is open for writing.</summary>
    public void AddFile() => Interlocked.Increment(ref _writtenFiles);

    /// <summary>It is not any more.</summary>
    public void RemoveFile() => Interlocked.Decrement(ref _writtenFiles);

    /// <summary>Begins a change; it ends when the scope is disposed.</summary>
    public Lock.Scope Enter() => _lock.EnterScope();
}
