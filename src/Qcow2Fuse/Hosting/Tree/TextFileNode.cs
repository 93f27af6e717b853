// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Fuse;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// A read-only text that is made when it is opened. As with files of /proc its size shows as 0, and reading goes on to
/// the end.
/// </summary>
/// <param name="context">What all nodes share.</param>
/// <param name="write">Writes the content.</param>
internal sealed class TextFileNode(TreeContext context, Action<TextWriter> write) : TreeNode
{
    /// <inheritdoc/>
    public override uint Kind => FuseAttributes.RegularFile;

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
            return -FuseErrno.EROFS;

        // Past the page cache, which would stop at the size.
        result = new FuseOpenResult(context.AddHandle(Content()), FuseOpenFlags.DirectIO);
        return 0;
    }

    /// <inheritdoc/>
    public override int Resume(ulong handle)
    {
        if (context.Handle<byte[]>(handle) is null)
            context.RenewHandle(handle, Content());
        return 0;
    }

    /// <inheritdoc/>
    public override void Release(ulong handle) => context.RemoveHandle(handle);

    /// <inheritdoc/>
    public override int Read(ulong handle, long offset, Span<byte> destination)
    {
        if (context.Handle<byte[]>(handle) is not { } content)
            return -FuseErrno.EBADF;
        int start = (int)Math.Min(offset, content.Length);
        int length = Math.Min(content.Length - start, destination.Length);
        content.AsSpan(start, length).CopyTo(destination);
        return length;
    }

    private byte[] Content()
    {
        using StringWriter text = new() { NewLine = "\n" };
        write(text);
        return Encoding.UTF8.GetBytes(text.ToString());
    }
}
