// SPDX-License-Identifier: MIT
using System.Numerics;
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Block.Memory;

/// <summary>
/// Native buffers aligned to 4096 bytes, kept for reuse in powers of two from 4 KiB to 4 MiB. Renting allocates no
/// managed memory. At most <see cref="KeptPerSize"/> buffers of a size are kept; larger ones go back to the system.
/// </summary>
public sealed unsafe class BufferPool
{
    /// <summary>Buffers of one size that are kept for reuse.</summary>
    public const int KeptPerSize = 16;

    private const int MinShift = 12;
    private const int MaxShift = 22;
    private const int Alignment = 4096;

    // Edges of copies, tables and reads that are not aligned take up to a cluster, and each worker may hold one; the
    // one who writes tables holds a larger one.
    private const int SmallMax = 64 << 10;
    private const int StagingSize = 256 << 10;

    private readonly nint[][] _kept;
    private readonly int[] _counts = new int[MaxShift - MinShift + 1];
    private readonly Lock _lock = new();

    private BufferPool()
    {
        _kept = new nint[_counts.Length][];
        for (int i = 0; i < _kept.Length; i++)
            _kept[i] = new nint[KeptPerSize];
    }

    /// <summary>The pool of the process.</summary>
    public static BufferPool Shared { get; } = new();

    /// <summary>
    /// A buffer of <paramref name="length"/> bytes with undefined content; dispose it to give it back.
    /// </summary>
    public PooledBuffer Rent(int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        int shift = Math.Max(MinShift, 32 - BitOperations.LeadingZeroCount((uint)Math.Max(length - 1, 0)));
        if (shift <= MaxShift)
        {
            lock (_lock)
            {
                ref int count = ref _counts[shift - MinShift];
                if (count > 0)
                    return new PooledBuffer((byte*)_kept[shift - MinShift][--count], length, shift);
            }
        }

        byte* fresh = (byte*)NativeMemory.AlignedAlloc((nuint)1 << shift, Alignment);
        return new PooledBuffer(fresh, length, shift);
    }

    /// <summary>
    /// Puts buffers of the sizes that serving a disk takes into the pool, with memory behind them: 2.5 MiB. What is
    /// rented later is then memory that need not be looked for.
    /// </summary>
    public void Populate()
    {
        for (int size = 1 << MinShift; size <= SmallMax; size <<= 1)
            Populate(size, KeptPerSize);
        Populate(StagingSize, 2);
    }

    private void Populate(int size, int count)
    {
        PooledBuffer[] buffers = new PooledBuffer[count];
        for (int i = 0; i < count; i++)
        {
            buffers[i] = Rent(size);
            buffers[i].Span.Clear();
        }

        foreach (PooledBuffer buffer in buffers)
            buffer.Dispose();
    }

    internal void Return(byte* pointer, int shift)
    {
        if (shift <= MaxShift)
        {
            lock (_lock)
            {
                ref int count = ref _counts[shift - MinShift];
                if (count < KeptPerSize)
                {
                    _kept[shift - MinShift][count++] = (nint)pointer;
                    return;
                }
            }
        }

        NativeMemory.AlignedFree(pointer);
    }
}

/// <summary>A buffer on loan from <see cref="BufferPool"/>. Dispose it exactly once, and do not copy it.</summary>
public readonly unsafe struct PooledBuffer : IDisposable
{
    private readonly byte* _pointer;
    private readonly int _length;
    private readonly int _shift;

    internal PooledBuffer(byte* pointer, int length, int shift)
    {
        _pointer = pointer;
        _length = length;
        _shift = shift;
    }

    /// <summary>The buffer, as long as it was asked for.</summary>
    public Span<byte> Span => new(_pointer, _length);

    /// <summary>Gives the buffer back.</summary>
    public void Dispose()
    {
        if (_pointer != null)
            BufferPool.Shared.Return(_pointer, _shift);
    }
}
