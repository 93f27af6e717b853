// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Fuse;

/// <summary>The memory of one request of a <see cref="TransferQueue"/>, and what is known of its transfer.</summary>
internal sealed unsafe class QueuedTransfer : IThreadPoolWorkItem, IDisposable
{
    /// <summary>Longer transfers are few at a time, and are left to the workers.</summary>
    private const int PayloadCapacity = 64 << 10;

    private const nuint MemorySize = FuseSlot.PageSize + PayloadCapacity;

    private readonly TransferQueue _queue;
    private byte* _memory;

    public QueuedTransfer(TransferQueue queue, int number)
    {
        _queue = queue;
        Number = number;

        // Pages are touched when they are first needed.
        _memory = (byte*)NativeMemory.AlignedAlloc(MemorySize, FuseSlot.PageSize);
        Slot = new FuseSlot(_memory + FuseSlot.PageSize, PayloadCapacity);
        Slot.Request -= FuseAbi.WriteInSize;
    }

    /// <summary>Bytes of the longest request that fits.</summary>
    public static int RequestCapacity => FuseAbi.InHeaderSize + FuseAbi.WriteInSize + PayloadCapacity;

    /// <summary>Its place in the queue.</summary>
    public int Number { get; }

    /// <summary>Request and reply as a session works on them.</summary>
    public FuseSlot Slot { get; }

    /// <summary>Its transfer.</summary>
    public FuseTransfer Transfer { get; } = new();

    /// <summary>Bytes of the request.</summary>
    public int Length { get; private set; }

    /// <summary>Copies a request of <paramref name="length"/> bytes, which fits, from the worker that received it.
    /// </summary>
    public void Accept(FuseSlot slot, int length)
    {
        Length = length;
        Slot.Descriptor = slot.Descriptor;
        new ReadOnlySpan<byte>(slot.Request, length).CopyTo(new Span<byte>(Slot.Request, length));
    }

    /// <summary>As <see cref="FuseSlot.Populate"/>.</summary>
    public void Populate() => NativeMemory.Clear(_memory, MemorySize);

    /// <inheritdoc/>
    public void Execute() => _queue.Dispatch(this);

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }
}
