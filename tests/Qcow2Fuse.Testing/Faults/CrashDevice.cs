// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>
/// A file in memory that records every operation, so that <see cref="CrashStates"/> can build what a power cut would
/// have left at any moment. It survives <see cref="BlockDevice.Dispose()"/>, as a disk survives the process.
/// </summary>
public sealed class CrashDevice : BlockDevice
{
    private const int SectorSize = SectorTable.SectorSize;

    private readonly List<CrashOp> _log = [];
    private readonly Lock _lock = new();
    private readonly CrashClock _clock;
    private readonly SectorImage _current;
    private SectorImage _initial;

    /// <summary>
    /// Creates an empty file; <paramref name="clock"/> is shared with whoever records what the guest did.
    /// </summary>
    public CrashDevice(CrashClock? clock = null, SectorTable? table = null)
    {
        _clock = clock ?? new CrashClock();
        Table = table ?? new SectorTable();
        _current = new SectorImage(Table);
        _initial = new SectorImage(Table);
    }

    /// <summary>The contents of all sectors ever written.</summary>
    public SectorTable Table { get; }

    /// <summary>The moments of the recorded operations.</summary>
    public CrashClock Clock => _clock;

    /// <summary>The file as it is now, without any crash. Do not keep it across operations.</summary>
    public SectorImage Current => _current;

    /// <summary>The bytes of the file at one moment, also while requests come.</summary>
    public byte[] Copy()
    {
        lock (_lock)
            return _current.ToArray();
    }

    /// <summary>The file as it was, durable, when <see cref="StartRecording"/> was called.</summary>
    public SectorImage Initial => _initial;

    /// <summary>The operations since <see cref="StartRecording"/> in the order in which they took effect.</summary>
    public IReadOnlyList<CrashOp> Log => _log;

    /// <summary>Whether a discard takes the content away (as a file does) or leaves it; either is allowed.</summary>
    public bool DiscardZeroes { get; set; } = true;

    /// <inheritdoc/>
    public override string Name => "crash device";

    /// <inheritdoc/>
    public override long Length
    {
        get
        {
            lock (_lock)
                return _current.Length;
        }
    }

    /// <inheritdoc/>
    public override bool IsReadOnly => false;

    /// <inheritdoc/>
    public override BlockLimits Limits => new(1, GrowsOnWrite: true);

    /// <summary>Forgets the log and takes the present content as durable.</summary>
    public void StartRecording()
    {
        lock (_lock)
        {
            _log.Clear();
            _initial = new SectorImage(Table);
            _initial.CopyFrom(_current);
        }
    }

    /// <summary>
    /// Makes the file equal to <paramref name="image"/>, which uses the same table, and starts recording.
    /// </summary>
    public void Load(SectorImage image)
    {
        lock (_lock)
        {
            _current.CopyFrom(image);
            _current.ForgetCutOff();
        }

        StartRecording();
    }

    /// <summary>Makes the file equal to <paramref name="bytes"/> and starts recording.</summary>
    public void Load(ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            _current.CopyFrom(new SectorImage(Table));
            Store(0, bytes, bytes.Length);
            _current.SetLength(bytes.Length);
        }

        StartRecording();
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        lock (_lock)
        {
            CheckRange(offset, destination.Length);
            _current.Read(offset, destination);
        }
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        CheckOffset(offset, source.Length);
        if (!source.IsEmpty)
            Change(CrashOpKind.Write, offset, source, source.Length);
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        CheckOffset(offset, length);
        if (length > 0)
            Change(CrashOpKind.WriteZeroes, offset, [], length);
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        CheckOffset(offset, length);
        length = Math.Min(length, Length - offset);
        if (length > 0 && DiscardZeroes)
            Change(CrashOpKind.Discard, offset, [], length);
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        CheckOffset(length, 0);
        CrashOp op;
        lock (_lock)
        {
            long before = _current.Length;
            int[] ids = [];
            int first = (int)(length / SectorSize);
            if (length < before)
                ids = Store(length, [], before - length);
            _current.SetLength(length);
            op = Record(CrashOpKind.Resize, length, 0, first, ids, before);
        }

        op.End = _clock.Next();
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        CrashOp op;
        lock (_lock)
            op = Record(CrashOpKind.Flush, 0, 0, 0, [], _current.Length);
        op.End = _clock.Next();
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        lock (_lock)
        {
            CheckRange(offset, length);
            long end = offset + length;
            long data = _current.SkipZeroes(offset, end);
            if (data > offset)
                return new Extent(offset, data - offset, ExtentKind.Zero, offset, 0);
            long sector = offset / SectorSize;
            while (sector * SectorSize < end && _current.IdAt(sector) != SectorTable.Zero)
                sector++;
            return new Extent(offset, Math.Min(sector * SectorSize, end) - offset, ExtentKind.Data, offset, 0);
        }
    }

    private static void CheckOffset(long offset, long length)
    {
        if (offset < 0 || length < 0 || offset + length > (long)int.MaxValue * SectorSize)
            throw new BlockException(BlockErrorKind.OutOfRange, $"crash device: range {offset}+{length}");
    }

    private void Change(CrashOpKind kind, long offset, ReadOnlySpan<byte> source, long length)
    {
        CrashOp op;
        lock (_lock)
        {
            long before = _current.Length;
            int[] ids = Store(offset, source, length);
            _current.SetLength(Math.Max(before, offset + length));
            op = Record(kind, offset, length, (int)(offset / SectorSize), ids, before);
        }

        op.End = _clock.Next();
    }

    private CrashOp Record(CrashOpKind kind, long offset, long length, int first, int[] ids, long lengthBefore)
    {
        CrashOp op = new()
        {
            Index = _log.Count,
            Kind = kind,
            Offset = offset,
            Length = length,
            Begin = _clock.Next(),
            FirstSector = first,
            IdsAfter = ids,
            ChangesLength = _current.Length != lengthBefore,
            LengthAfter = _current.Length,
        };
        _log.Add(op);
        return op;
    }

    /// <summary>
    /// Stores <paramref name="source"/>, or zeroes where it is empty, and returns the sectors after it.
    /// </summary>
    private int[] Store(long offset, ReadOnlySpan<byte> source, long length)
    {
        int first = (int)(offset / SectorSize);
        int last = (int)((offset + length + SectorSize - 1) / SectorSize);
        int[] ids = new int[last - first];
        Span<byte> merged = stackalloc byte[SectorSize];
        for (int sector = first; sector < last; sector++)
        {
            long start = Math.Max(offset, (long)sector * SectorSize);
            int count = (int)(Math.Min(offset + length, ((long)sector + 1) * SectorSize) - start);
            Table.Content(_current.IdAt(sector)).CopyTo(merged);
            Span<byte> changed = merged.Slice((int)(start % SectorSize), count);
            if (source.IsEmpty)
                changed.Clear();
            else
                source.Slice((int)(start - offset), count).CopyTo(changed);
            ids[sector - first] = Table.Intern(merged);
        }

        _current.SetIds(first, ids);
        return ids;
    }
}
