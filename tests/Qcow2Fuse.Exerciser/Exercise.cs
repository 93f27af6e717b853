// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Exerciser;

/// <summary>Random operations on the views of one disk, each compared with an array.</summary>
internal sealed unsafe class Exercise : IDisposable
{
    private const int BytesMax = 300_000;
    private const int Page = 4096;
    private const int Remembered = 30;

    /// <summary>
    /// A change through another view is announced to the kernel by a thread of its own, and an fsync waits for that,
    /// but not for ever.
    /// </summary>
    private static readonly TimeSpan NewsPatience = TimeSpan.FromMinutes(2);

    private readonly View[] _views;
    private readonly byte[] _disk;
    private readonly byte[] _writers;
    private readonly byte* _buffer = (byte*)NativeMemory.AlignedAlloc(BytesMax + Page, Page);
    private readonly SeededRandom _random;
    private readonly Queue<string> _history = new();
    private readonly Dictionary<string, int> _counts = new(StringComparer.Ordinal);
    private int _last;

    public Exercise(IEnumerable<string> views, ulong seed)
    {
        _views = [.. views.Select(View.Open)];
        _disk = new byte[_views[0].Length];
        _writers = new byte[(_disk.Length + Page - 1) / Page];
        _random = new SeededRandom(seed);
        _views[0].Read(Access.Buffered, _disk, 0);
    }

    /// <summary>How many operations were done.</summary>
    public int Count { get; private set; }

    /// <summary>How often a change through another view was seen only at the second look.</summary>
    public int Late { get; private set; }

    public string Summary => string.Join(' ', _counts.OrderBy(static pair => pair.Key, StringComparer.Ordinal)
        .Select(static pair => string.Create(CultureInfo.InvariantCulture, $"{pair.Key}={pair.Value}")));

    /// <summary>The last operations, the newest at the end.</summary>
    public IEnumerable<string> History => _history;

    /// <summary>One operation.</summary>
    public void Step()
    {
        View view = _random.Pick<View>(_views);
        if (view.Number != _last)
        {
            _views[_last].Sync();
            _last = view.Number;
        }

        Count++;
        long offset = _random.Below(view.Length);
        int length = (int)Math.Min(view.Length - offset, 1 + _random.Below(_random.Chance(70) ? 9000 : BytesMax));
        int kind = _random.Below(100);
        Access access = _random.Pick(Access.Buffered, Access.Direct, Access.Mapped);
        if (access == Access.Direct && kind < 85)
        {
            offset &= ~511L;
            length = (int)Math.Min(view.Length - offset, (length + 511) & ~511);
        }

        switch (kind)
        {
            case < 45:
                Write(view, access, offset, length);
                break;
            case < 85:
                Note(view, "read", access, offset, length);
                Compare(view, access, offset, length);
                break;
            case < 90:
                Zero(view, Native.PunchHole, "punch", offset, length * 8L);
                break;
            case < 95:
                Zero(view, Native.ZeroRange, "zero", offset, length * 2L);
                break;
            default:
                Note(view, "fsync", null, 0, 0);
                view.Sync();
                break;
        }
    }

    /// <summary>Compares all of every view.</summary>
    public void CompareAll()
    {
        _views[_last].Sync();
        foreach (View view in _views)
        {
            for (long offset = 0; offset < view.Length; offset += BytesMax)
            {
                int length = (int)Math.Min(BytesMax, view.Length - offset);
                Compare(view, Access.Buffered, offset, length);
                Compare(view, Access.Mapped, offset, length);
            }
        }
    }

    public void Dispose()
    {
        foreach (View view in _views)
            view.Dispose();
        NativeMemory.AlignedFree(_buffer);
    }

    private void Write(View view, Access access, long offset, int length)
    {
        Note(view, "write", access, offset, length);
        Span<byte> bytes = new(_buffer, length);
        byte value = (byte)_random.NextBits();
        for (int i = 0; i < length; i++)
            bytes[i] = (byte)(value + (i >> 4) + (i >> 9));
        view.Write(access, bytes, offset);
        bytes.CopyTo(_disk.AsSpan((int)(view.Start + offset)));
        Mark(view, offset, length);
        if (access == Access.Mapped && _random.Chance(70))
            view.Settle();
    }

    private void Zero(View view, int mode, string name, long offset, long wanted)
    {
        int length = (int)Math.Min(wanted, view.Length - offset);
        Note(view, name, null, offset, length);
        view.Allocate(mode, offset, length);
        _disk.AsSpan((int)(view.Start + offset), length).Clear();
        Mark(view, offset, length);
    }

    private void Mark(View view, long offset, int length)
    {
        int first = (int)((view.Start + offset) / Page);
        int end = (int)((view.Start + offset + length + Page - 1) / Page);
        _writers.AsSpan(first, end - first).Fill((byte)view.Number);
    }

    private void Compare(View view, Access access, long offset, int length)
    {
        Span<byte> seen = new(_buffer, length);
        int from = (int)(view.Start + offset);
        ReadOnlySpan<byte> expected = _disk.AsSpan(from, length);
        Stopwatch waited = Stopwatch.StartNew();
        for (bool first = true; ; first = false)
        {
            view.Read(access, seen, offset);
            int same = seen.CommonPrefixLength(expected);
            if (same == length)
                return;
            if (_writers[(from + same) / Page] == view.Number || waited.Elapsed > NewsPatience)
            {
                throw new InvalidDataException(
                    $"{view.Path} at {offset + same} ({access}): read {seen[same]}, expected {expected[same]}; "
                    + $"written through view {_writers[(from + same) / Page]}, this is view {view.Number}");
            }

            Late += first ? 1 : 0;
            Thread.Sleep(1);
        }
    }

    private void Note(View view, string operation, Access? access, long offset, long length)
    {
        string kind = access is null ? operation : $"{operation}-{access}";
        _counts[kind] = _counts.GetValueOrDefault(kind) + 1;
        if (_history.Count == Remembered)
            _history.Dequeue();
        _history.Enqueue(string.Create(
            CultureInfo.InvariantCulture, $"{Count}: view {view.Number} {kind} {offset}+{length}"));
    }
}
