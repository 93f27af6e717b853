// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using System.Globalization;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>A mount has as many open texts and directories as there is room for.</summary>
internal sealed class HandlesExhaustedException(string message) : Exception(message);

/// <summary>The entries of a directory as they were at one moment; all who open it while they are the same share them.
/// </summary>
internal sealed class DirectoryListing(DirectoryEntry[] entries)
{
    public DirectoryEntry[] Entries => entries;

    /// <summary>What it takes in memory.</summary>
    public long Bytes { get; } = entries.Sum(static entry => entry.Bytes);

    /// <summary>How many handles have it; the handle table's.</summary>
    public int Users { get; set; }
}

/// <summary>
/// What is kept for open texts and directories. Anybody who may enter a mount can open as many as he likes: they are
/// bounded, and what is beyond is refused. Open disks need nothing here.
/// </summary>
internal sealed class HandleTable
{
    private readonly ConcurrentDictionary<ulong, object> _handles = new();
    private readonly Lock _lock = new();
    private int _count;
    private long _listingBytes;

    /// <summary>Handles at most.</summary>
    public int HandlesMax { get; init; } = 8192;

    /// <summary>Bytes of all listings that are open, each listing once, at most; one alone may have more.</summary>
    public long ListingBytesMax { get; init; } = 12 << 20;

    /// <summary>What is kept for a handle; null for one that nobody has.</summary>
    public T? Get<T>(ulong handle)
        where T : class =>
        _handles.TryGetValue(handle, out object? content) ? content as T : null;

    /// <summary>Keeps something for a handle, in place of what was kept before.</summary>
    /// <exception cref="HandlesExhaustedException">There is no room; nothing has changed.</exception>
    public void Set(ulong handle, object content)
    {
        lock (_lock)
        {
            _ = _handles.TryGetValue(handle, out object? before);
            if (before is null && _count >= HandlesMax)
            {
                throw new HandlesExhaustedException(string.Create(
                    CultureInfo.InvariantCulture, $"{_count} texts and directories are open, and no more may be"));
            }

            if (content is DirectoryListing { Users: 0 } listing && _listingBytes > 0
                && _listingBytes + listing.Bytes > ListingBytesMax)
            {
                throw new HandlesExhaustedException(string.Create(
                    CultureInfo.InvariantCulture,
                    $"listings of {_listingBytes} bytes are open, and no more may be"));
            }

            _handles[handle] = content;
            _count += before is null ? 1 : 0;
            Count(content, 1);
            Count(before, -1);
        }
    }

    /// <summary>Forgets a handle.</summary>
    public void Remove(ulong handle)
    {
        lock (_lock)
        {
            if (!_handles.TryRemove(handle, out object? content))
                return;
            _count--;
            Count(content, -1);
        }
    }

    private void Count(object? content, int users)
    {
        if (content is not DirectoryListing listing)
            return;
        int before = listing.Users;
        listing.Users += users;
        if (before == 0)
            _listingBytes += listing.Bytes;
        else if (listing.Users == 0)
            _listingBytes -= listing.Bytes;
    }
}
