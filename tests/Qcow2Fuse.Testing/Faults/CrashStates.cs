// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>
/// What a power cut may leave of a file. The model: an operation that had returned before a completed flush began is
/// durable; every other one that was issued may have reached the disk or not, in any combination, and torn between
/// sectors of 512 bytes. A sector holds its content after some write to it, and never goes back behind a durable one.
/// The length covers what is durable and what was applied, and may have run ahead to what was issued.
/// </summary>
/// <remarks>
/// Enumerates moments in order and at each a share of the wanted states, kept in one image that is changed and
/// restored: a state costs as much as the operations it applies.
/// </remarks>
public sealed class CrashStates
{
    private const int SectorSize = SectorTable.SectorSize;
    private const int NotApplied = -1;

    private readonly SeededRandom _random;
    private readonly List<Moment> _moments = [];
    private readonly List<Pending> _pending = [];
    private readonly List<(int Sector, int Count)> _touched = [];
    private readonly List<string> _applied = [];
    private readonly SectorImage _durable;
    private readonly long _count;
    private int _moment = -1;
    private long _quota;
    private long _produced;
    private string _kind = string.Empty;

    /// <summary>Prepares the states of a recorded log.</summary>
    /// <param name="initial">The file, durable, before the first operation.</param>
    /// <param name="log">What was done to it.</param>
    /// <param name="seed">Which states.</param>
    /// <param name="count">How many; the moments get equal shares.</param>
    /// <param name="extraMoments">Moments to judge besides those at which an operation took effect.</param>
    public CrashStates(
        SectorImage initial, IReadOnlyList<CrashOp> log, ulong seed, long count, IEnumerable<long>? extraMoments = null)
    {
        _random = new SeededRandom(seed);
        _count = count;
        _durable = new SectorImage(initial.Table);
        _durable.CopyFrom(initial);
        State = new SectorImage(initial.Table);
        State.CopyFrom(initial);
        foreach (CrashOp op in log)
        {
            if (op.Kind != CrashOpKind.Flush)
                _moments.Add(new Moment(op.Begin, op, null));
            else if (op.End != long.MaxValue)
                _moments.Add(new Moment(op.End, null, op));
        }

        _moments.AddRange((extraMoments ?? []).Select(time => new Moment(time, null, null)));
        _moments.Sort((left, right) => left.Time.CompareTo(right.Time));
    }

    /// <summary>The file as the crash left it, until the next call of <see cref="Next"/>.</summary>
    public SectorImage State { get; }

    /// <summary>The moment of the crash: what began later was never issued.</summary>
    public long Time { get; private set; }

    /// <summary>
    /// The moments at which something happened to a file. Two files that crash together have the same moments: those of
    /// each are given to the other as extra ones. Then their states come in step, each a choice of its own.
    /// </summary>
    public static IEnumerable<long> MomentsOf(IEnumerable<CrashOp> log) => log
        .Where(static op => op.Kind != CrashOpKind.Flush || op.End != long.MaxValue)
        .Select(static op => op.Kind == CrashOpKind.Flush ? op.End : op.Begin);

    /// <summary>Goes to the next state; false when all were produced.</summary>
    public bool Next()
    {
        Restore();
        while (_produced >= _quota)
        {
            if (++_moment >= _moments.Count)
                return false;
            Advance(_moments[_moment]);
            _quota = (long)((Int128)_count * (_moment + 1) / _moments.Count);
        }

        _produced++;
        Build();
        return true;
    }

    /// <summary>Says which operations the state holds.</summary>
    public string Describe() =>
        string.Create(CultureInfo.InvariantCulture, $"crash at moment {Time}, state '{_kind}', length {State.Length}: ")
        + (_applied.Count == 0 ? "nothing but what was durable" : "durable and " + string.Join(", ", _applied))
        + "; in flight: " + string.Join(", ", _pending.Select(pending => pending.Op));

    private void Advance(Moment moment)
    {
        Time = moment.Time;
        if (moment.Issued is not null)
            _pending.Add(new Pending(moment.Issued));
        if (moment.Flushed is null)
            return;

        for (int i = 0; i < _pending.Count; i++)
        {
            if (_pending[i].Op.End >= moment.Flushed.Begin)
                continue;
            Pending durable = _pending[i];
            _pending.RemoveAt(i--);
            for (int earlier = 0; earlier <= i; earlier++)
                _pending[earlier].HideBehind(durable.Op);
            Apply(_durable, durable, -1, 0);
            ApplyLength(_durable, durable, durable.LastByte);
            Apply(State, durable, -1, 0);
            State.SetLength(_durable.Length);
        }
    }

    private void Build()
    {
        int kind = _random.Below(100);
        int only = _pending.Count == 0 ? -1 : _random.Below(_pending.Count);
        _kind = kind switch { < 20 => "all", < 26 => "none", < 40 => "one", < 72 => "subset", _ => "torn" };
        int torn = _kind == "torn" ? only : -1;
        int share = _random.Pick(20, 50, 80);
        for (int i = 0; i < _pending.Count; i++)
        {
            bool isIn = _kind switch
            {
                "all" => true,
                "none" => false,
                "one" => i == only,
                _ => i == torn || _random.Chance(share),
            };
            if (!isIn)
                continue;
            Pending pending = _pending[i];
            long last = Apply(State, pending, i == torn ? _random.Below(3) : -1, _random.NextBits());
            ApplyLength(State, pending, last);
            _touched.Add((pending.Op.FirstSector, pending.Op.IdsAfter.Length));
            _applied.Add(i == torn ? $"part of {pending.Op}" : pending.Op.ToString());
        }

        if (_random.Chance(50))
        {
            long ahead = _durable.Length;
            foreach (Pending pending in _pending)
                ahead = pending.Op.ChangesLength ? pending.Op.LengthAfter : ahead;
            State.SetLength(Math.Max(State.Length, ahead));
        }
    }

    private void Restore()
    {
        foreach ((int sector, int count) in _touched)
            State.RestoreFrom(_durable, sector, count);
        State.SetLength(_durable.Length);
        _touched.Clear();
        _applied.Clear();
    }

    /// <summary>
    /// Puts the sectors of an operation into an image: all of them, or torn: 0 the first ones, 1 the last ones,
    /// 2 any. Returns the first byte after the last sector applied.
    /// </summary>
    private static long Apply(SectorImage image, Pending pending, int tear, ulong bits)
    {
        int[] ids = pending.Ids;
        int first = pending.Op.FirstSector;
        int cut = ids.Length > 0 ? (int)(bits % (ulong)ids.Length) : 0;
        if (tear < 0 && !pending.IsHidden)
        {
            image.SetIds(first, ids);
            return pending.LastByte;
        }

        long last = 0;
        for (int i = 0; i < ids.Length; i++)
        {
            bool isIn = tear switch
            {
                0 => i < cut,
                1 => i >= cut,
                2 => (SeededRandom.Mix(bits + (ulong)i) & 1) != 0,
                _ => true,
            };
            if (!isIn || ids[i] == NotApplied)
                continue;
            image.SetId(first + i, ids[i]);
            last = Math.Min((long)(first + i + 1) * SectorSize, pending.LastByte);
        }

        return last;
    }

    private static void ApplyLength(SectorImage image, Pending pending, long lastByte)
    {
        if (pending.Op.Kind == CrashOpKind.Resize)
            image.SetLength(pending.Op.LengthAfter);
        else if (pending.Op.ChangesLength)
            image.SetLength(Math.Max(image.Length, lastByte));
    }

    private readonly record struct Moment(long Time, CrashOp? Issued, CrashOp? Flushed);

    private sealed class Pending(CrashOp op)
    {
        public CrashOp Op { get; } = op;

        public int[] Ids { get; private set; } = op.IdsAfter;

        public bool IsHidden { get; private set; }

        public long LastByte => Op.Kind == CrashOpKind.Resize
            ? Op.LengthAfter
            : Op.Offset + Op.Length;

        /// <summary>Sectors that a later operation has made durable must not go back to this one's content.</summary>
        public void HideBehind(CrashOp durable)
        {
            int from = Math.Max(Op.FirstSector, durable.FirstSector);
            int to = Math.Min(Op.FirstSector + Ids.Length, durable.FirstSector + durable.IdsAfter.Length);
            if (from >= to)
                return;
            if (!IsHidden)
                Ids = (int[])Ids.Clone();
            IsHidden = true;
            Ids.AsSpan(from - Op.FirstSector, to - from).Fill(NotApplied);
        }
    }
}
