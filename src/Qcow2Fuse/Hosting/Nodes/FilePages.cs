// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Hosting.Images;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>What the kernel may hold of a raw file: its size, and pages, which programs may have changed.</summary>
/// <param name="context">What all nodes share.</param>
/// <param name="node">The file.</param>
internal sealed class FilePages(TreeContext context, RawFileNode node) : IDiskView
{
    private FuseCachedNode? _cached;
    private int _opens;
    private int _writing;
    private long _asked;
    private volatile bool _isRecalled;

    private SharedWrites Writes => node.Image.Writes;

    /// <inheritdoc/>
    public ulong Number => node.Number;

    /// <summary>How often the file is open; whoever counts keeps others from it.</summary>
    public int Opens
    {
        get => Volatile.Read(ref _opens);
        set => Volatile.Write(ref _opens, value);
    }

    /// <inheritdoc/>
    public bool MayHaveChangedPages => Volatile.Read(ref _writing) > 0;

    /// <inheritdoc/>
    public long Delivered => context.Invalidator?.Delivered ?? 0;

    /// <summary>
    /// The kernel knows the file from an earlier process: it may hold pages of it, and there may be users.
    /// </summary>
    /// <param name="writes">Whether it may be open for writing.</param>
    public void Recall(bool writes)
    {
        _ = Know();
        _isRecalled = true;
        if (writes)
            BeginWriting();
    }

    /// <summary>From now on the kernel may hold something of the file.</summary>
    public FuseCachedNode Know()
    {
        if (Volatile.Read(ref _cached) is { } cached)
            return cached;
        FuseCachedNode known = new(Number);
        return Interlocked.CompareExchange(ref _cached, known, comparand: null) ?? known;
    }

    /// <summary>Says that the file is open for writing once more; whether it was not before.</summary>
    public bool BeginWriting()
    {
        Writes.Newer.Prepare();
        if (Interlocked.Increment(ref _writing) != 1)
            return false;
        Writes.AddFile();
        context.WrittenNodes?.Add(Number);
        return true;
    }

    /// <summary>Says that it is once less.</summary>
    public void EndWriting()
    {
        if (Interlocked.Decrement(ref _writing) != 0)
            return;
        Writes.RemoveFile();
        context.WrittenNodes?.Remove(Number);
    }

    /// <inheritdoc/>
    /// <remarks><see cref="FuseInvalidator.WaitDelivered(TimeSpan)"/> waits for it.</remarks>
    public void AskForPages(long from)
    {
        if (Volatile.Read(ref _cached) is { } cached)
            _ = Ask(cached, Math.Max(from - node.Window.Start, 0), long.MaxValue);
    }

    /// <inheritdoc/>
    public long Forget(long start, long length)
    {
        FuseCachedNode? cached = Volatile.Read(ref _cached);

        // Pages of a view live while it is open only: without FOPEN_KEEP_CACHE every open drops them.
        if (cached is null || (node.IsView && Opens == 0 && !_isRecalled))
            return 0;
        long end = length > long.MaxValue - start ? long.MaxValue : start + length;
        long from = Math.Max(start, node.Window.Start);
        long to = node.Window.Length is { } size ? Math.Min(end, node.Window.Start + size) : end;
        return from < to ? Ask(cached, from - node.Window.Start, to - from) : 0;
    }

    /// <inheritdoc/>
    public long ForgetEnd(long start) => Ask(Know(), Math.Max(start - node.Window.Start, 0), long.MaxValue);

    /// <summary>Asks the kernel to drop a range of its pages of the file, if it has any.</summary>
    /// <param name="offset">Where it begins in the file.</param>
    /// <param name="length">Its length in bytes.</param>
    public void Drop(long offset, long length)
    {
        if (Volatile.Read(ref _cached) is { } cached)
            _ = Ask(cached, offset, length);
    }

    /// <summary>Waits until the kernel has done what it was asked to for this file.</summary>
    public bool WaitDelivered(TimeSpan patience) =>
        context.Invalidator?.WaitDelivered(Volatile.Read(ref _asked), patience) != false;

    private long Ask(FuseCachedNode cached, long offset, long length)
    {
        if (context.Invalidator is not { } invalidator)
            return 0;
        long ticket = invalidator.Invalidate(cached, offset, length);
        for (long seen = Volatile.Read(ref _asked); seen < ticket;)
            seen = Interlocked.CompareExchange(ref _asked, ticket, seen);
        return ticket;
    }
}
