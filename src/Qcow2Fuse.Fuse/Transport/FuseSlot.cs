// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;

namespace Qcow2Fuse.Fuse.Transport;

/// <summary>
/// The native buffer of one worker: one request is received into it, worked on and answered from it.
/// </summary>
/// <remarks>
/// A WRITE request is struct fuse_in_header and struct fuse_write_in, 40 bytes each, followed by the data. The
/// request therefore begins 80 bytes before a page boundary, so that the data can go to a file opened with O_DIRECT
/// without a copy. In the same way the reply begins 16 bytes (struct fuse_out_header) before the same one. Request and
/// reply share their memory: a handler that has begun to build a payload has done with the request's, and the header of
/// the reply is written last.
/// </remarks>
public sealed unsafe class FuseSlot : IDisposable
{
    internal const int PageSize = 4096;

    private byte* _memory;
    private volatile int _threadId;
    private volatile bool _busy;
    private long _served;

    /// <summary>
    /// Allocates a buffer for requests with up to <paramref name="payloadCapacity"/> bytes of data (a multiple of
    /// 4096, at least 8192). <paramref name="descriptor"/> is the transport's own business.
    /// </summary>
    public FuseSlot(int payloadCapacity, int descriptor)
        : this(Allocate(payloadCapacity) + PageSize, payloadCapacity)
    {
        Descriptor = descriptor;
        _memory = Request + FuseAbi.InHeaderSize + FuseAbi.WriteInSize - PageSize;
    }

    /// <summary>
    /// Makes a slot in others' memory: <paramref name="payload"/>, which is page aligned with at least a page before
    /// it, is both where the data of a request comes in and where the reply's payload goes.
    /// </summary>
    internal FuseSlot(byte* payload, int payloadCapacity)
    {
        PayloadCapacity = payloadCapacity;
        Descriptor = -1;
        Request = payload - FuseAbi.InHeaderSize - FuseAbi.WriteInSize;
        Reply = payload - FuseAbi.OutHeaderSize;
    }

    /// <summary>Where the request is received: its header is here.</summary>
    public byte* Request { get; internal set; }

    /// <summary>Bytes that fit at <see cref="Request"/>.</summary>
    public int RequestCapacity => FuseAbi.InHeaderSize + FuseAbi.WriteInSize + PayloadCapacity;

    /// <summary>Where the reply is built: its header is here, its payload follows on a page boundary.</summary>
    public byte* Reply { get; }

    /// <summary>Bytes of payload that fit into a reply.</summary>
    public int PayloadCapacity { get; }

    /// <summary>The transport's handle for the worker that received the request.</summary>
    public int Descriptor { get; internal set; }

    /// <summary>The kernel's number of the thread that works with this slot; 0 before and after.</summary>
    internal int ThreadId
    {
        get => _threadId;
        set => _threadId = value;
    }

    /// <summary>What is known of the request in work; null before the first one.</summary>
    internal FuseCall? Call { get; set; }

    /// <summary>Whether its worker has a request in work.</summary>
    internal bool IsBusy => _busy;

    /// <summary>Requests its worker has finished.</summary>
    internal long Served => Volatile.Read(ref _served);

    internal Span<byte> ReplyPayload => new(Reply + FuseAbi.OutHeaderSize, PayloadCapacity);

    /// <summary>
    /// Has the kernel find all memory of the buffer now. Memory looked for while a request is received could be such
    /// as is freed only when that request has been answered.
    /// </summary>
    internal void Populate() => NativeMemory.Clear(_memory, (nuint)(PageSize + PayloadCapacity));

    /// <summary>Called by the worker when it has received a request.</summary>
    internal void Begin() => _busy = true;

    /// <summary>Called by the worker when it has answered the request.</summary>
    internal void Finish()
    {
        Volatile.Write(ref _served, _served + 1);
        _busy = false;
    }

    private static byte* Allocate(int payloadCapacity)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(payloadCapacity, 2 * PageSize);
        if (payloadCapacity % PageSize != 0)
            throw new ArgumentOutOfRangeException(nameof(payloadCapacity), payloadCapacity, "not whole pages");
        return (byte*)NativeMemory.AlignedAlloc((nuint)(PageSize + payloadCapacity), PageSize);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }
}
