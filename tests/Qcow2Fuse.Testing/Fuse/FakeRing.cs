// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse;

namespace Qcow2Fuse.Testing.Fuse;

/// <summary>A request as it lies in an entry of a ring: header, fixed arguments and payload, and what is said of it.
/// </summary>
/// <param name="Header">40 bytes.</param>
/// <param name="Arguments">At most 128 bytes.</param>
/// <param name="Payload">What is there of the payload.</param>
/// <param name="StatedPayload">How long it is said to be.</param>
public sealed record FakeRingRequest(byte[] Header, byte[] Arguments, byte[] Payload, uint StatedPayload)
{
    /// <summary>A request that is as it says.</summary>
    public static FakeRingRequest Of(
        uint opcode, ulong node, ulong unique, byte[] arguments, byte[] payload)
    {
        byte[] header = FakeKernel.BuildRequest(opcode, node, unique, []);
        MemoryMarshal.Write(header, (uint)(header.Length + arguments.Length + payload.Length));
        return new FakeRingRequest(header, arguments, payload, (uint)payload.Length);
    }
}

/// <summary>The kernel's side of one ring with one entry: what that checks is checked here.</summary>
public sealed unsafe class FakeRing : IFuseRing
{
    private const int ArgumentsOffset = 128;
    private const int CommitOffset = 264;
    private const int PayloadSizeOffset = 272;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly FakeKernel _kernel;
    private readonly FuseRingEntry _entry;
    private readonly BlockingCollection<FakeRingRequest> _requests = [];
    private readonly object _gate = new();

    private CancellationTokenSource _interrupt = new();
    private TaskCompletionSource<FakeReply>? _waiting;
    private ulong _commitId;
    private ulong _unique;

    internal FakeRing(FakeKernel kernel, int queue, int payloadCapacity)
    {
        _kernel = kernel;
        _entry = new FuseRingEntry(queue, payloadCapacity);
        Processor = queue;
    }

    /// <inheritdoc/>
    public int? Processor { get; }

    /// <summary>Whether the server has given the entry to the kernel.</summary>
    public bool IsRegistered { get; private set; }

    /// <summary>Sends one request and waits for its reply; one at a time.</summary>
    public FakeReply Send(FakeRingRequest request)
    {
        TaskCompletionSource<FakeReply> completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_gate)
            _waiting = completion;
        _requests.Add(request);
        if (!completion.Task.Wait(Patience))
            throw new TimeoutException($"no reply to {Convert.ToHexString(request.Header)}");
        return completion.Task.Result;
    }

    /// <summary>Unmounts.</summary>
    public void End() => _requests.CompleteAdding();

    /// <inheritdoc/>
    public int Open() => _kernel.RingOpenResult;

    /// <inheritdoc/>
    public int Register()
    {
        IsRegistered = _kernel.RingRegisterResult == 0;
        return _kernel.RingRegisterResult;
    }

    /// <inheritdoc/>
    public int Receive(out FuseRingEntry? entry)
    {
        entry = null;
        try
        {
            if (!_requests.TryTake(
                out FakeRingRequest? request, Timeout.Infinite, Volatile.Read(ref _interrupt).Token))
            {
                return -FuseErrno.ENOTCONN;
            }

            request.Header.CopyTo(new Span<byte>(_entry.Headers, ArgumentsOffset));
            request.Arguments.CopyTo(new Span<byte>(_entry.Headers + ArgumentsOffset, ArgumentsOffset));
            request.Payload.CopyTo(new Span<byte>(_entry.Payload, _entry.Slot.PayloadCapacity));
            _unique = MemoryMarshal.Read<ulong>(request.Header.AsSpan(8));
            _commitId = _unique ^ 0x5555;
            *(ulong*)(_entry.Headers + CommitOffset) = _commitId;
            *(uint*)(_entry.Headers + PayloadSizeOffset) = request.StatedPayload;
            entry = _entry;
            return _entry.Accept();
        }
        catch (OperationCanceledException)
        {
            return 0;
        }
    }

    /// <inheritdoc/>
    public void Reply(FuseRingEntry entry)
    {
        int error = *(int*)(entry.Headers + 4);
        ulong unique = *(ulong*)(entry.Headers + 8);
        uint payload = *(uint*)(entry.Headers + PayloadSizeOffset);
        if (entry.CommitId != _commitId)
            _kernel.Complain($"commit of {entry.CommitId:x} instead of {_commitId:x}");
        if (unique != _unique)
            _kernel.Complain($"a reply to {unique:x} instead of {_unique:x}");
        if (error is > 0 or <= -512)
            _kernel.Complain($"error {error}");
        if (payload > entry.Slot.PayloadCapacity || (error != 0 && payload != 0))
            _kernel.Complain($"error {error} with a payload of {payload} bytes");
        TaskCompletionSource<FakeReply>? waiting;
        lock (_gate)
        {
            waiting = _waiting;
            _waiting = null;
        }

        if (waiting is null)
            _kernel.Complain("a second reply");
        else
            waiting.SetResult(new FakeReply(error, new ReadOnlySpan<byte>(entry.Payload, (int)payload).ToArray()));
    }

    /// <inheritdoc/>
    public void Interrupt() => Interlocked.Exchange(ref _interrupt, new CancellationTokenSource()).Cancel();

    /// <inheritdoc/>
    public void Close()
    {
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _entry.Dispose();
        _requests.Dispose();
        _interrupt.Dispose();
    }
}
