// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;

namespace Qcow2Fuse.Fuse.Transport;

/// <summary>
/// One entry of a queue of FUSE over io_uring: the memory the kernel writes a request to and reads its reply from
/// (struct fuse_uring_req_header and a payload), and the slot that shows them to a session as one run of bytes.
/// </summary>
/// <remarks>
/// The kernel puts the header, the fixed arguments and the rest of a request at three places. Header and arguments are
/// copied to right before the payload, which stays where it is: page aligned, as from /dev/fuse.
/// </remarks>
public sealed unsafe class FuseRingEntry : IDisposable
{
    private byte* _memory;

    /// <summary>Allocates the memory of an entry.</summary>
    /// <param name="queue">Number of the queue it belongs to.</param>
    /// <param name="payloadCapacity">Most bytes of data in one request, a multiple of 4096, at least 8192.</param>
    public FuseRingEntry(int queue, int payloadCapacity)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(payloadCapacity, 2 * FuseSlot.PageSize);
        Queue = queue;

        // Pages are touched when they are first needed: an entry that no request comes to costs address space only.
        _memory = (byte*)NativeMemory.AlignedAlloc(
            (nuint)((2 * FuseSlot.PageSize) + payloadCapacity), FuseSlot.PageSize);
        NativeMemory.Clear(_memory, 2 * FuseSlot.PageSize);
        Slot = new FuseSlot(_memory + (2 * FuseSlot.PageSize), payloadCapacity);
    }

    /// <summary>Number of the queue, which is that of a processor.</summary>
    public int Queue { get; }

    /// <summary>Request and reply as a session works on them.</summary>
    public FuseSlot Slot { get; }

    /// <summary>struct fuse_uring_req_header.</summary>
    public byte* Headers => _memory;

    /// <summary>Where the payload of request and reply is, of <see cref="FuseSlot.PayloadCapacity"/> bytes.</summary>
    public byte* Payload => _memory + (2 * FuseSlot.PageSize);

    /// <summary>What the kernel knows the request by.</summary>
    public ulong CommitId { get; private set; }

    /// <summary>Its place in its ring.</summary>
    public int Index { get; init; }

    /// <summary>The transfer its request may be.</summary>
    public FuseTransfer Transfer { get; } = new();

    /// <summary>Bytes of the request it has.</summary>
    internal int Length { get; set; }

    /// <summary>Who takes it back from the thread that serves its request.</summary>
    internal IRingOwner? Owner { get; set; }

    /// <summary>The next one where it is in a list.</summary>
    internal FuseRingEntry? Next { get; set; }

    internal FuseRingHeaders* Ring => (FuseRingHeaders*)_memory;

    /// <summary>
    /// Takes the request the kernel has put there and shows it in <see cref="Slot"/>. One whose lengths contradict
    /// each other or do not fit becomes one that is answered with EINVAL.
    /// </summary>
    /// <returns>The request's length in bytes, at least that of a header.</returns>
    public int Accept()
    {
        FuseInHeader header = *(FuseInHeader*)Headers;
        CommitId = Ring->CommitId;
        uint payload = Ring->PayloadSize;
        long arguments = (long)header.Length - FuseAbi.InHeaderSize - payload;
        if (payload > (uint)Slot.PayloadCapacity || arguments is < 0 or > FuseRingHeaders.PartSize)
        {
            header.Length = 0;
            arguments = 0;
            payload = 0;
        }

        byte* request = Payload - arguments - FuseAbi.InHeaderSize;
        *(FuseInHeader*)request = header;
        new ReadOnlySpan<byte>(Headers + FuseRingHeaders.PartSize, (int)arguments).CopyTo(
            new Span<byte>(request + FuseAbi.InHeaderSize, (int)arguments));
        Slot.Request = request;
        return FuseAbi.InHeaderSize + (int)arguments + (int)payload;
    }

    /// <summary>
    /// Puts the reply in <see cref="Slot"/> to where the kernel reads it. An entry always goes back with one, also
    /// where no reply is due.
    /// </summary>
    /// <param name="length">The reply's length in bytes; 0 for a request that wants none.</param>
    public void Complete(int length)
    {
        FuseOutHeader reply = length > 0
            ? *(FuseOutHeader*)Slot.Reply
            : new FuseOutHeader { Length = FuseAbi.OutHeaderSize, Unique = ((FuseInHeader*)Headers)->Unique };
        *(FuseOutHeader*)Headers = reply;
        Ring->PayloadSize = reply.Length - FuseAbi.OutHeaderSize;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Slot.Dispose();
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }
}
