// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Fuse.Server;

/// <summary>The memory of one request of a <see cref="TransferQueue"/>, and what is known of its transfer.</summary>
internal sealed unsafe class QueuedTransfer : IDisposable
{
    private readonly nuint _size;
    private byte* _memory;

    /// <summary>Allocates the memory.</summary>
    /// <param name="number">As <see cref="Number"/>.</param>
    /// <param name="payloadCapacity">Most bytes of data, a multiple of 4096.</param>
    public QueuedTransfer(int number, int payloadCapacity)
    {
        Number = number;
        _size = (nuint)(FuseSlot.PageSize + payloadCapacity);

        // Pages are touched when they are first needed.
        _memory = (byte*)NativeMemory.AlignedAlloc(_size, FuseSlot.PageSize);
        Slot = new FuseSlot(_memory + FuseSlot.PageSize, payloadCapacity);
    }

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
    public void Populate() => NativeMemory.Clear(_memory, _size);

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }
}
