// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Block.Tests;

/// <summary>A layer of a chain that counts what it is asked. What it stores is the stamp of its number.</summary>
internal sealed class FakeLayer(ulong number, long length, BlockDevice? backing) : BlockDevice, IOverlay
{
    private readonly List<(long Start, long End)> _stored = [];
    private bool _isDisposed;

    public override string Name => $"layer {number}";

    public override long Length => length;

    public override bool IsReadOnly => !IsWritable;

    public BlockDevice? Backing => backing;

    public bool IsWritable { get; init; }

    /// <summary>Whether it keeps runs in their place itself, as an image does, or is a plain file.</summary>
    public bool KeepsRuns { get; init; }

    /// <summary>An offset at which it cannot tell what it stores; −1 for none.</summary>
    public long DamagedAt { get; set; } = -1;

    /// <summary>Calls since they were last set to zero.</summary>
    public int Asked { get; set; }

    /// <summary>Transfers that have begun and not ended.</summary>
    public int UnderWay { get; private set; }

    public bool IsDisposed => _isDisposed;

    public FakeLayer Store(long offset, long bytes)
    {
        _stored.Add((offset, offset + bytes));
        return this;
    }

    public override void Read(long offset, Span<byte> destination)
    {
        Asked++;
        CheckRange(offset, destination.Length);
        while (!destination.IsEmpty)
        {
            Extent extent = ExtentAt(offset, destination.Length);
            Span<byte> part = destination[..(int)extent.Length];
            if (extent.Kind == ExtentKind.Data)
                Stamp.Fill(part, offset, number);
            else if (backing is null || offset >= backing.Length)
                part.Clear();
            else
                backing.ReadPadded(offset, part);
            destination = destination[part.Length..];
            offset += part.Length;
        }
    }

    public override Extent GetExtent(long offset, long length)
    {
        Asked++;
        CheckRange(offset, length);
        return ExtentAt(offset, length);
    }

    public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
    {
        Asked++;
        run = default;
        Extent extent = ExtentAt(offset, length);
        if (isWrite || extent.Kind != ExtentKind.Data || extent.Length < length)
            return false;
        UnderWay++;
        run = new PlainRun { Descriptor = (int)number, Offset = offset, Keeper = KeepsRuns ? this : null, Token = 77 };
        return true;
    }

    public override void EndPlain(in PlainRun run)
    {
        bool isOurs = run.Descriptor == (int)number && ReferenceEquals(run.Keeper, KeepsRuns ? this : null);
        if (!isOurs || (KeepsRuns && run.Token != 77) || UnderWay == 0)
            throw new InvalidOperationException($"{Name}: ends a run of somebody else");
        UnderWay--;
    }

    public override void Write(long offset, ReadOnlySpan<byte> source) => CheckWritable();

    public override void Flush()
    {
    }

    protected override void Dispose(bool disposing)
    {
        if (_isDisposed)
            throw new InvalidOperationException($"{Name}: is disposed twice");
        _isDisposed = true;
        backing?.Dispose();
        base.Dispose(disposing);
    }

    private Extent ExtentAt(long offset, long bytes)
    {
        if (DamagedAt == offset)
            throw new BlockException(BlockErrorKind.Corrupt, $"{Name}: is damaged at {offset}");
        long end = offset + bytes;
        if (DamagedAt > offset)
            end = Math.Min(end, DamagedAt);
        ExtentKind kind = ExtentKind.Unallocated;
        foreach ((long start, long stop) in _stored)
        {
            if (start > offset)
            {
                end = Math.Min(end, start);
            }
            else if (stop > offset)
            {
                kind = ExtentKind.Data;
                end = Math.Min(end, stop);
            }
        }

        return new Extent(offset, end - offset, kind, kind == ExtentKind.Data ? offset : -1, Depth: 0);
    }
}
