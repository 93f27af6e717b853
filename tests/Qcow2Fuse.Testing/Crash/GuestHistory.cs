// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing.Faults;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>
/// All contents every sector of the guest's disk may have had. After a crash a sector may hold what it held at the
/// last completed flush, or what an operation issued later made of it, and nothing else. Zeroes are no exception.
/// </summary>
/// <remarks>
/// Operations come in rounds. Those of one round ran at the same time, so a sector that several of them touch may
/// have become the result of any of them in any order; after the round it is read, and that is its content from then
/// on. Contents are numbers of a <see cref="SectorTable"/>; an operation on part of a sector makes a content of its
/// own.
/// </remarks>
public sealed class GuestHistory
{
    private const int SectorSize = SectorTable.SectorSize;
    private const int None = -1;

    private readonly SectorTable _table;
    private readonly ulong _tagBase;
    private readonly int[] _initial;
    private readonly int[] _current;
    private readonly int[] _newest;
    private readonly List<Entry> _entries = [];
    private readonly List<(long End, int Round)> _flushes = [];
    private readonly HashSet<int> _final = [];

    /// <summary>Starts with the durable contents <paramref name="initial"/>.</summary>
    /// <param name="table">Where the contents are.</param>
    /// <param name="initial">The content number of every guest sector.</param>
    /// <param name="tagBase">Added to an operation's number to get the tag of its stamp.</param>
    public GuestHistory(SectorTable table, int[] initial, ulong tagBase)
    {
        _table = table;
        _tagBase = tagBase;
        _initial = initial;
        _current = (int[])initial.Clone();
        _newest = new int[initial.Length];
        Array.Fill(_newest, None);
    }

    /// <summary>Sectors of the guest's disk.</summary>
    public int SectorCount => _initial.Length;

    /// <summary>Whether most operations write bytes that compress well.</summary>
    public bool Compressible { get; init; }

    /// <summary>The content every sector has now, without a crash.</summary>
    public ReadOnlySpan<int> Current => _current;

    /// <summary>The bytes an operation writes.</summary>
    public byte[] BytesOf(GuestOp op) => Stamp.Bytes(op.Offset, op.Length, TagOf(op));

    /// <summary>
    /// Adds a finished round. <paramref name="read"/> reads one sector of the live disk. Returns what is wrong with
    /// the live disk, or null.
    /// </summary>
    public string? AddRound(IReadOnlyList<GuestOp> ops, Func<int, int> read)
    {
        string? wrong = null;
        GuestOp[] changes = ops.Where(op => op.ChangesData && op.Length > 0).ToArray();
        long end = ops.Max(op => op.End);
        foreach (GuestOp op in changes)
        {
            int last = (int)((op.Offset + op.Length - 1) / SectorSize);
            for (int sector = (int)(op.Offset / SectorSize); sector <= last; sector++)
            {
                if (Array.Find(changes, other => Covers(other, sector)) == op)
                    wrong ??= AddSector(sector, changes, ops[0].Round, end, read(sector));
            }
        }

        foreach (GuestOp flush in ops.Where(op => op is { Kind: GuestOpKind.Flush, HasFailed: false }))
            _flushes.Add((flush.End, flush.Round));
        return wrong;
    }

    /// <summary>Says that everything up to and with a round is durable from a moment on.</summary>
    public void AddDurable(long end, int round) => _flushes.Add((end, round + 1));

    /// <summary>
    /// Adds a change of the whole disk, durable when it has returned, after which every sector has a content. Only the
    /// first <paramref name="live"/> sectors can be read then. Returns what is wrong with the live disk, or null.
    /// </summary>
    public string? AddWhole(GuestOp op, ReadOnlySpan<int> contents, int live, Func<int, int> read)
    {
        string? wrong = null;
        for (int sector = 0; sector < contents.Length; sector++)
        {
            if (contents[sector] != _current[sector])
                Add(sector, contents[sector], op.Begin, op.Round);
            _current[sector] = contents[sector];
            int observed = sector < live ? read(sector) : contents[sector];
            if (observed != contents[sector])
                wrong ??= $"live disk: sector {sector} after {op}: {Describe(sector, observed, long.MaxValue)}";
        }

        AddDurable(op.End, op.Round);
        return wrong;
    }

    /// <summary>The first round whose results need not be durable for a crash at a moment.</summary>
    public int DurableBefore(long time)
    {
        int round = 0;
        foreach ((long end, int flushed) in _flushes)
            round = end <= time ? Math.Max(round, flushed) : round;
        return round;
    }

    /// <summary>Whether a sector may hold a content after a crash at a moment.</summary>
    public bool IsLegal(int sector, int id, long time, int durableBefore)
    {
        for (int at = _newest[sector]; at != None; at = _entries[at].Older)
        {
            Entry entry = _entries[at];
            if (entry.Id == id && entry.Begin <= time)
                return true;
            if (entry.Round < durableBefore)
                return false;
        }

        return id == _initial[sector];
    }

    /// <summary>Says what a content of a sector that is not legal is.</summary>
    public string Describe(int sector, int id, long time)
    {
        for (int at = _newest[sector]; at != None; at = _entries[at].Older)
        {
            if (_entries[at].Id == id)
            {
                return _entries[at].Begin <= time
                    ? "what it held before something newer took effect for good"
                    : "what it got after the crash";
            }
        }

        if (id == _initial[sector])
            return "its first content, although something newer took effect for good";
        if (id == SectorTable.Zero)
            return "zeroes that nobody wrote there";
        for (int other = 0; other < _initial.Length; other++)
        {
            if (_initial[other] == id)
                return $"the first content of sector {other}";
            for (int at = _newest[other]; at != None; at = _entries[at].Older)
            {
                if (_entries[at].Id == id)
                    return $"the content of sector {other} after round {_entries[at].Round}";
            }
        }

        return "bytes that were never written anywhere on the disk";
    }

    private ulong TagOf(GuestOp op)
    {
        ulong tag = _tagBase + (ulong)op.Number;
        return Compressible && op.Number % 4 != 0 ? tag | Stamp.Compressible : tag & ~Stamp.Compressible;
    }

    private static bool Covers(GuestOp op, int sector) =>
        op.Offset < ((long)sector + 1) * SectorSize && op.Offset + op.Length > (long)sector * SectorSize;

    private string? AddSector(int sector, GuestOp[] changes, int round, long end, int observed)
    {
        GuestOp[] here = Array.FindAll(changes, op => Covers(op, sector));
        _final.Clear();
        Explore(sector, here, 0, _current[sector], 0, round);
        if (!_final.Contains(observed))
        {
            return $"live disk: sector {sector} after {string.Join(", ", here.Select(op => op.ToString()))}: "
                + Describe(sector, observed, long.MaxValue);
        }

        // The newest entry of a round is what later rounds start from and what a later flush makes durable.
        if (_entries[_newest[sector]].Id != observed)
            Add(sector, observed, end, round);
        _current[sector] = observed;
        return null;
    }

    /// <summary>Adds the result of every order of every part of the operations of a round.</summary>
    private void Explore(int sector, GuestOp[] here, int used, int id, long begin, int round)
    {
        if (used != 0)
            Add(sector, id, begin, round);
        if (used == (1 << here.Length) - 1)
            _final.Add(id);
        for (int i = 0; i < here.Length; i++)
        {
            if ((used & (1 << i)) != 0)
                continue;
            long later = Math.Max(begin, here[i].Begin);
            Explore(sector, here, used | (1 << i), Apply(here[i], sector, id), later, round);
            if (here[i].Kind == GuestOpKind.Discard || here[i].HasFailed)
                Explore(sector, here, used | (1 << i), id, later, round);
        }
    }

    private int Apply(GuestOp op, int sector, int id)
    {
        long start = (long)sector * SectorSize;
        int from = (int)Math.Max(op.Offset - start, 0);
        int to = (int)Math.Min(op.Offset + op.Length - start, SectorSize);
        Span<byte> content = stackalloc byte[SectorSize];
        _table.Content(id).CopyTo(content);
        if (op.Kind == GuestOpKind.Write)
            Stamp.Fill(content[from..to], start + from, TagOf(op));
        else
            content[from..to].Clear();
        return _table.Intern(content);
    }

    private void Add(int sector, int id, long begin, int round)
    {
        _entries.Add(new Entry(_newest[sector], round, begin, id));
        _newest[sector] = _entries.Count - 1;
    }

    private readonly record struct Entry(int Older, int Round, long Begin, int Id);
}
