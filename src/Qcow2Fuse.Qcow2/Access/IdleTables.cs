// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>Gives up cached tables that nobody has used for a while.</summary>
internal sealed class IdleTables : IDisposable
{
    private readonly ImageCore _image;
    private readonly MetadataTables _tables;
    private readonly CommitTimer _commit;
    private readonly PeriodicWork? _cleaner;

    /// <summary>Begins, unless <paramref name="interval"/> is zero.</summary>
    public IdleTables(ImageCore image, MetadataTables tables, CommitTimer commit, TimeSpan interval)
    {
        _image = image;
        _tables = tables;
        _commit = commit;
        if (interval > TimeSpan.Zero)
            _cleaner = new PeriodicWork(interval, Drop, NoteFailure);
    }

    /// <summary>Ends it, and waits for what has begun.</summary>
    public void Dispose() => _cleaner?.Dispose();

    private void Drop()
    {
        using (_image.Gate.Enter())
            _tables.DropIdle();
    }

    /// <summary>Nobody waits for it: the next flush passes on what is wrong with the tables.</summary>
    private void NoteFailure(Exception failure) => _commit.NoteFailure(failure as BlockException ?? new BlockException(
        BlockErrorKind.Io, $"{_image.Name}: tables could not be given up: {failure.Message}", failure));
}
