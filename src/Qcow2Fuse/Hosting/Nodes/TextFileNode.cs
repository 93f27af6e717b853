// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>
/// A read-only text that is made while it is read. As with files of /proc its size shows as 0, and reading goes on to
/// the end.
/// </summary>
/// <param name="context">What all nodes share.</param>
/// <param name="lines">Makes the lines of the content, from the first on; see <see cref="TextCursor"/>.</param>
/// <param name="makerBytes">What the maker holds beside its lines, in bytes.</param>
internal sealed class TextFileNode(
    TreeContext context, Func<TextPace, IEnumerable<string?>> lines, int makerBytes = 8 << 10) : TreeNode
{
    /// <inheritdoc/>
    public override uint Kind => FuseAttributes.RegularFile;

    /// <inheritdoc/>
    public override bool MayTakeLong => true;

    /// <inheritdoc/>
    public override FuseAttributes Attributes()
    {
        FuseTime now = FuseTime.Now;
        return context.Attributes(this, context.Ownership.FileMode(isReadOnly: true), links: 1) with
        {
            Accessed = now,
            Modified = now,
            Changed = now,
            CacheTimeout = TimeSpan.Zero,
        };
    }

    /// <inheritdoc/>
    public override int Open(FuseOpenRequest request, out FuseOpenResult result)
    {
        result = default;
        if (request.Writes)
            return -Errno.EROFS;

        // What cannot be read at all is said now. Past the page cache, which would stop at the size.
        TextCursor cursor = Create();
        try
        {
            cursor.Begin();
            result = new FuseOpenResult(context.AddHandle(cursor), FuseOpenFlags.DirectIO);
            return 0;
        }
        catch
        {
            cursor.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override int Resume(ulong handle)
    {
        if (context.Handle<TextCursor>(handle) is null)
            context.RenewHandle(handle, Create());
        return 0;
    }

    /// <inheritdoc/>
    public override void Release(ulong handle) => context.DropHandle(handle);

    /// <inheritdoc/>
    public override int Read(ulong handle, long offset, Span<byte> destination)
    {
        if (context.Handle<TextCursor>(handle) is not { } cursor)
            return -Errno.EBADF;
        using Walk walk = context.Walks.Begin();
        return cursor.Read(offset, destination, walk);
    }

    /// <summary>An open text outlives its node: it looks for it again, and does not keep what it is about.</summary>
    private TextCursor Create() => Create(context, Number, makerBytes);

    private static TextCursor Create(TreeContext context, ulong number, int makerBytes) => new(
        pace => context.Nodes.TryGet(number, out TreeNode? node) && node is TextFileNode text
            ? text.Lines(pace) : [],
        makerBytes,
        context.Texts);

    private IEnumerable<string?> Lines(TextPace pace) => lines(pace);
}
