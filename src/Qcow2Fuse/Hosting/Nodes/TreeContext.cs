// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Hosting.Restart;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>What all nodes of a mount share.</summary>
internal sealed class TreeContext
{
    /// <summary>Preferred size of requests, and the unit of statfs(2), in bytes.</summary>
    public const uint BlockSize = 4096;

    private static readonly TimeSpan DeliveryPatience = TimeSpan.FromMilliseconds(200);

    private const int GenerationShift = 32;

    /// <summary>These two are above all handles that are counted.</summary>
    private const ulong DirectBit = 1UL << 31;

    private const ulong WritingBit = 1UL << 30;

    /// <summary>Images whose details have nodes, at most.</summary>
    private const int DetailsMax = 1024;

    private readonly Queue<IDetailsOwner> _details = new();
    private uint _lastHandle;

    /// <summary>A tree without nodes.</summary>
    public TreeContext(MountSettings settings, ILogger logger)
    {
        Settings = settings;
        Logger = logger;
        Ownership = FileOwnership.From(settings);
        Started = FuseTime.Now;
    }

    public MountSettings Settings { get; }

    public ILogger Logger { get; }

    /// <summary>Who owns the files, with what modes.</summary>
    public FileOwnership Ownership { get; }

    /// <summary>When the mount was made: the time of its directories.</summary>
    public FuseTime Started { get; }

    /// <summary>
    /// Which process since the mount this is, which the upper half of every handle says: 1 for the first, or 0 for a
    /// mount that ends with its process.
    /// </summary>
    public uint Generation { get; init; }

    /// <summary>Disks opened in an earlier generation than this one may have lost writes.</summary>
    public uint BrokenBelow { get; init; }

    /// <summary>The handle of what needs nothing to be kept for it.</summary>
    public ulong PlainHandle => (ulong)Generation << GenerationShift;


    /// <summary>Bounds of requests that go over much of a disk.</summary>
    public WalkLimits Walks { get; init; } = new();

    /// <summary>What is kept for open texts and directories.</summary>
    public HandleTable Handles { get; init; } = new();

    /// <summary>What the texts that are read have in memory.</summary>
    public TextRoom Texts { get; init; } = new();

    /// <summary>The nodes by number.</summary>
    public NodeTable Nodes { get; } = new();

    /// <summary>The way to the kernel's page cache, once there is a server.</summary>
    public FuseInvalidator? Invalidator { get; set; }

    /// <summary>Attributes that all nodes have in common.</summary>
    public FuseAttributes Attributes(TreeNode node, uint permissions, uint links) => new()
    {
        Node = node.Number,
        Mode = node.Kind | permissions,
        Links = links,
        Uid = Ownership.UserId,
        Gid = Ownership.GroupId,
        BlockSize = BlockSize,
    };

    /// <summary>Keeps what an open file or directory needs until it is released.</summary>
    /// <exception cref="HandlesExhaustedException">Too many are open.</exception>
    public ulong AddHandle(object content)
    {
        ulong handle = PlainHandle | Interlocked.Increment(ref _lastHandle);
        Handles.Set(handle, content);
        return handle;
    }

    /// <summary>Keeps it again for a handle that an earlier process gave out.</summary>
    /// <exception cref="HandlesExhaustedException">Too many are open.</exception>
    public void RenewHandle(ulong handle, object content) => Handles.Set(handle, content);

    /// <summary>Whether a handle was given out by this process, and not by one that served the mount before.</summary>
    public bool IsOwn(ulong handle) => (uint)(handle >> GenerationShift) == Generation;

    /// <summary>The handle of an open disk, which says what has to be known of it.</summary>
    /// <param name="isDirect">Whether the kernel's page cache is kept out of it.</param>
    /// <param name="writes">Whether it is open for writing.</param>
    public ulong DiskHandle(bool isDirect, bool writes) =>
        PlainHandle | (isDirect ? DirectBit : 0) | (writes ? WritingBit : 0);

    /// <summary>Whether a handle that this process gave out is of a disk that is open for writing.</summary>
    public static bool Writes(ulong handle) => (handle & WritingBit) != 0;

    /// <summary>
    /// Whether the kernel sends no FSYNC after synchronous writes of a handle, as far as is known: an earlier process
    /// may have been a version that did not say it in the handle.
    /// </summary>
    public bool MayBeDirect(ulong handle) => (handle & DirectBit) != 0 || !IsOwn(handle);

    /// <summary>Whether writes of a handle may be lost, because the process died before it had made them durable.
    /// </summary>
    public bool IsBroken(ulong handle) => (uint)(handle >> GenerationShift) < BrokenBelow;

    /// <summary>What was kept; null for a handle that nobody has.</summary>
    public T? Handle<T>(ulong handle)
        where T : class =>
        Handles.Get<T>(handle);

    /// <summary>Forgets a handle.</summary>
    public void RemoveHandle(ulong handle) => Handles.Remove(handle);

    /// <summary>Forgets a handle whose node has gone before it.</summary>
    public void DropHandle(ulong handle)
    {
        Handle<TextCursor>(handle)?.Dispose();
        RemoveHandle(handle);
    }

    /// <summary>
    /// Tells that an image has nodes of its details now. The one that has had them for longest gives its own back where
    /// there are too many; the kernel asks again for what has no node.
    /// </summary>
    public void AddDetails(IDetailsOwner image)
    {
        IDetailsOwner? oldest = null;
        lock (_details)
        {
            _details.Enqueue(image);
            if (_details.Count > DetailsMax)
                oldest = _details.Dequeue();
        }

        oldest?.DropDetails();
    }

    /// <summary>
    /// Which nodes are open for writing, for the process that goes on with the mount; null where none will.
    /// </summary>
    public WrittenNodes? WrittenNodes { get; init; }

    /// <summary>
    /// What was changed through the files of the image, for the process that goes on with the mount; null where none
    /// will.
    /// </summary>
    public NewerRanges? NewerRanges { get; init; }

    /// <summary>
    /// Has the kernel write what programs have changed in mapped memory of all files. Workers serve meanwhile.
    /// </summary>
    /// <returns>Whether it has, in time.</returns>
    public bool TryWritePages(TimeSpan patience)
    {
        foreach (ulong number in Nodes.Numbers)
        {
            if (Nodes.TryGet(number, out TreeNode? node) && node is RawFileNode { Pages: { } pages }
                && pages.MayHaveChangedPages)
                pages.AskForPages(0);
        }

        return Invalidator is null || Invalidator.WaitDelivered(patience);
    }

    /// <summary>Waits until the kernel has done what it was asked to; false where that takes longer.</summary>
    public bool HasDelivered(TimeSpan patience) => Invalidator is null || Invalidator.TryWaitDelivered(patience);

    /// <summary>Has the kernel drop all pages of all files of the mount's image, which an earlier process served.
    /// </summary>
    public void ForgetPages()
    {
        if (Invalidator is not { } invalidator)
            return;
        long last = 0;
        foreach (ulong number in Nodes.Numbers)
            last = invalidator.Invalidate(new FuseCachedNode(number), 0, long.MaxValue);
        NewerRanges?.EndEarlierWith(last);
    }

    /// <summary>
    /// Waits a moment until the kernel has dropped the pages that are out of date. What was written through one file
    /// before an fsync or a close is then seen by whoever opens another.
    /// </summary>
    public void AwaitInvalidations() => Invalidator?.TryWaitDelivered(DeliveryPatience);
}
