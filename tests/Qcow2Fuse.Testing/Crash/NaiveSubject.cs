// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>A mistake <see cref="NaiveQcow2"/> makes on purpose.</summary>
public enum NaiveFault
{
    /// <summary>None: the right order everywhere.</summary>
    None,

    /// <summary>The L2 entry is written without waiting for the data and the refcount to be durable.</summary>
    LinkWithoutFlush,

    /// <summary>The L2 entry points at a cluster whose refcount is written only later.</summary>
    RefcountAfterLink,

    /// <summary>A freed cluster is handed out before the removal of its last reference is durable.</summary>
    ReuseAtOnce,

    /// <summary>What is around the written bytes in a new cluster is not copied.</summary>
    NoCopyOnWrite,

    /// <summary>A mapped range is zeroed in place before the new data is written.</summary>
    ZeroBeforeWrite,

    /// <summary>Flush returns without doing anything.</summary>
    FlushDoesNothing,

    /// <summary>The last sector of a large in-place write goes to the next cluster.</summary>
    WriteOneSectorTooFar,

    /// <summary>A discarded cluster's refcount is given back twice.</summary>
    FreeTwice,

    /// <summary>A flush after one that failed may succeed. Only a failing disk shows it.</summary>
    ForgetsFailedFlush,

    /// <summary>An error of the disk on a data write is not passed on. Only a failing disk shows it.</summary>
    SwallowsErrors,
}

/// <summary>The crash tests' own subject: a slow and simple engine, right or wrong in one chosen way.</summary>
public sealed class NaiveSubject(NaiveFault fault = NaiveFault.None) : ICrashSubject
{
    /// <inheritdoc/>
    public string Name => $"naive engine ({fault})";

    /// <inheritdoc/>
    public bool LeaksNothing => true;

    /// <inheritdoc/>
    public bool Supports(ImageKind kind) => kind is { ExtendedL2: false, Compressed: false };

    /// <inheritdoc/>
    public void Create(BlockDevice file, ImageKind kind) => NaiveQcow2.Create(file, kind);

    /// <inheritdoc/>
    public BlockDevice Open(BlockDevice file, BlockDevice? backing, BlockDevice? data) =>
        new NaiveQcow2(file, backing, fault);
}
