// SPDX-License-Identifier: MIT
using System.Numerics;
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Block.Chain;

/// <summary>
/// Remembers which layer of a chain answers for a granule of the disk, in granules of three sizes. Each has a table of
/// fixed size in native memory, where a granule has one place; the newer of two that have the same place stays. No
/// lock: an entry is one word that names its granule too.
/// </summary>
/// <remarks>Nothing is ever taken back, so what is remembered has to be true for the life of the chain.</remarks>
internal sealed unsafe class ChainMap : IDisposable
{
    /// <summary>Nothing is known of the granule.</summary>
    public const int Unknown = -1;

    /// <summary>No single layer answers for all of the granule.</summary>
    public const int Mixed = 254;

    /// <summary>Sizes of granules, 0 the largest.</summary>
    public const int Levels = 3;

    /// <summary>The largest disk, in bytes.</summary>
    public const long LengthMax = 1L << (FinestShift + PlaceBitsMax + TagBits);

    /// <summary>Bytes of a granule of the largest size.</summary>
    public const int GranuleMax = 1 << CoarsestShift;

    private const int CoarsestShift = 21;
    private const int FinestShift = 12;
    private const int PlaceBitsMax = 18;
    private const int TagBits = 24;
    private const int AnswerBits = 8;
    private const uint AnswerMask = (1 << AnswerBits) - 1;

    private readonly uint* _entries;
    private readonly Table _coarse;
    private readonly Table _middle;
    private readonly Table _fine;

    /// <summary>
    /// For a disk of up to <see cref="LengthMax"/> bytes. Three times 1 MiB at most, of which the system gives what is
    /// used.
    /// </summary>
    public ChainMap(long length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, LengthMax);
        _coarse = new Table(length, CoarsestShift, first: 0);
        _middle = new Table(length, shift: 16, first: _coarse.End);
        _fine = new Table(length, FinestShift, first: _middle.End);
        _entries = (uint*)NativeMemory.AllocZeroed((nuint)_fine.End, sizeof(uint));
    }

    /// <summary>Where the granule of an offset ends: they have 2 MiB, 64 KiB and 4 KiB.</summary>
    public long EndOf(int level, long offset) => (offset | ((1L << TableOf(level).Shift) - 1)) + 1;

    /// <summary>Where the granule of an offset begins.</summary>
    public long StartOf(int level, long offset) => offset & (-1L << TableOf(level).Shift);

    /// <summary>The layer that answers for the granule of an offset, <see cref="Mixed"/> or <see cref="Unknown"/>.
    /// </summary>
    public int Find(int level, long offset)
    {
        uint entry = Volatile.Read(ref _entries[TableOf(level).PlaceOf(offset, out uint tag)]);
        return entry >> AnswerBits == tag ? (int)(entry & AnswerMask) - 1 : Unknown;
    }

    /// <summary>Remembers a layer, which is below <see cref="Mixed"/>, or that.</summary>
    public void Set(int level, long offset, int layer)
    {
        long place = TableOf(level).PlaceOf(offset, out uint tag);
        Volatile.Write(ref _entries[place], (tag << AnswerBits) | (uint)(layer + 1));
    }

    /// <inheritdoc/>
    public void Dispose() => NativeMemory.Free(_entries);

    private Table TableOf(int level) => level switch
    {
        0 => _coarse,
        1 => _middle,
        _ => _fine,
    };

    /// <summary>The entries of one size of granules. Neighbours lie side by side.</summary>
    private readonly struct Table
    {
        private readonly int _placeBits;
        private readonly int _first;

        public Table(long length, int shift, int first)
        {
            ulong granules = (ulong)(length >> shift) + 1;
            _placeBits = Math.Min(PlaceBitsMax, 64 - BitOperations.LeadingZeroCount(granules));
            _first = first;
            Shift = shift;
        }

        /// <summary>A granule has two to this power bytes.</summary>
        public int Shift { get; }

        /// <summary>The number of the entry behind the last one.</summary>
        public int End => _first + (1 << _placeBits);

        public int PlaceOf(long offset, out uint tag)
        {
            long granule = offset >> Shift;
            tag = (uint)(granule >> _placeBits);
            return _first + (int)(granule & ((1L << _placeBits) - 1));
        }
    }
}
