// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

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

/// <summary>The kernel's side of one ring: what that checks is checked here.</summary>
public sealed unsafe class FakeRing : IFuseRing
{
    private const int ArgumentsOffset = 128;
    private const int CommitOffset = 264;
    private const int PayloadSizeOffset = 272;
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly FakeKernel _kernel;
    private readonly FuseRingEntry[] _entries;
    private readonly ulong[] _commits;
    private readonly ulong[] _uniques;
    private readonly Stack<FuseRingEntry> _free = new();
    private readonly Queue<FakeRingRequest> _backlog = new();
    private readonly BlockingCollection<Happening> _happenings = [];
    private readonly ConcurrentDictionary<ulong, TaskCompletionSource<FakeReply>> _waiting = new();
    private int _transfers;
    private bool _isClosed;

    internal FakeRing(FakeKernel kernel, int queue, int depth, int payloadCapacity)
    {
        _kernel = kernel;
        _entries = [.. Enumerable.Range(0, depth).Select(
            index => new FuseRingEntry(queue, payloadCapacity) { Index = index })];
        _commits = new ulong[depth];
        _uniques = new ulong[depth];
        foreach (FuseRingEntry entry in _entries)
            _free.Push(entry);
        Processor = queue;
    }

    /// <inheritdoc/>
    public int? Processor { get; }

    /// <inheritdoc/>
    public int Count => _entries.Length;

    /// <summary>Whether the server has given the entries to the kernel.</summary>
    public bool IsRegistered { get; private set; }

    /// <summary>Transfers the server has begun.</summary>
    public int Transfers => Volatile.Read(ref _transfers);

    /// <summary>Sends one request and waits for its reply.</summary>
    public FakeReply Send(FakeRingRequest request)
    {
        Task<FakeReply> reply = SendAsync(request);
        if (!reply.Wait(Patience))
            throw new TimeoutException($"no reply to {Convert.ToHexString(request.Header)}");
        return reply.Result;
    }

    /// <summary>Sends a request, whose number no other has that waits, and returns its reply to come.</summary>
    public Task<FakeReply> SendAsync(FakeRingRequest request)
    {
        TaskCompletionSource<FakeReply> completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
        if (!_waiting.TryAdd(MemoryMarshal.Read<ulong>(request.Header.AsSpan(8)), completion))
            throw new InvalidOperationException("another request has that number");
        _happenings.Add(new Happening { Request = request });
        return completion.Task;
    }

    /// <summary>Unmounts.</summary>
    public void End() => _happenings.Add(new Happening { Kind = FuseRingEventKind.Ended });

    /// <inheritdoc/>
    public int Open() => _kernel.RingOpenResult;

    /// <inheritdoc/>
    public int Register()
    {
        IsRegistered = _kernel.RingRegisterResult == 0;
        return _kernel.RingRegisterResult;
    }

    /// <inheritdoc/>
    public FuseRingEvent Receive()
    {
        if (_free.Count > 0 && _backlog.TryDequeue(out FakeRingRequest? first))
            return Deliver(first);
        Happening next = _happenings.Take();
        if (next.Request is null)
            return new FuseRingEvent(next.Kind, next.Entry, next.Value);
        if (_free.Count > 0)
            return Deliver(next.Request);
        _backlog.Enqueue(next.Request);
        return new FuseRingEvent(FuseRingEventKind.Woken);
    }

    /// <inheritdoc/>
    public void Reply(FuseRingEntry entry)
    {
        int error = *(int*)(entry.Headers + 4);
        ulong unique = *(ulong*)(entry.Headers + 8);
        uint payload = *(uint*)(entry.Headers + PayloadSizeOffset);
        if (entry.CommitId != _commits[entry.Index])
            _kernel.Complain($"commit of {entry.CommitId:x} instead of {_commits[entry.Index]:x}");
        if (unique != _uniques[entry.Index])
            _kernel.Complain($"a reply to {unique:x} instead of {_uniques[entry.Index]:x}");
        if (error is > 0 or <= -512)
            _kernel.Complain($"error {error}");
        if (payload > entry.Slot.PayloadCapacity || (error != 0 && payload != 0))
            _kernel.Complain($"error {error} with a payload of {payload} bytes");
        if (_free.Contains(entry))
            _kernel.Complain("a reply in an entry without a request");
        _free.Push(entry);
        if (_waiting.TryRemove(unique, out TaskCompletionSource<FakeReply>? waiting))
            waiting.SetResult(new FakeReply(error, new ReadOnlySpan<byte>(entry.Payload, (int)payload).ToArray()));
        else
            _kernel.Complain("a second reply");
    }

    /// <inheritdoc/>
    public void Transfer(FuseRingEntry entry)
    {
        Interlocked.Increment(ref _transfers);
        _ = Task.Run(() =>
        {
            int result = _kernel.OnTransfer(entry.Transfer) ?? Move(entry);
            if (_isClosed)
                _kernel.Complain("the ring was closed with a transfer under way");
            _happenings.Add(new Happening
            { Kind = FuseRingEventKind.Transferred, Entry = entry, Value = result });
        });
    }

    /// <inheritdoc/>
    public int TryReadNow(FuseRingEntry entry) => _kernel.OnReadNow(entry.Transfer) ?? Move(entry);

    /// <inheritdoc/>
    public void Wake()
    {
        if (!_happenings.IsAddingCompleted)
            _happenings.Add(new Happening { Kind = FuseRingEventKind.Woken });
    }

    /// <inheritdoc/>
    public void Close() => _isClosed = true;

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (FuseRingEntry entry in _entries)
            entry.Dispose();
        _happenings.Dispose();
    }

    private static int Move(FuseRingEntry entry)
    {
        FuseTransfer transfer = entry.Transfer;
        Span<byte> payload = new(entry.Payload, transfer.Length);
        if (!transfer.IsWrite)
            return LinuxFile.Read(transfer.Descriptor, payload, transfer.Offset);
        int result = LinuxFile.Write(transfer.Descriptor, payload, transfer.Offset);
        return result < 0 ? result : transfer.Length;
    }

    private FuseRingEvent Deliver(FakeRingRequest request)
    {
        FuseRingEntry entry = _free.Pop();
        request.Header.CopyTo(new Span<byte>(entry.Headers, ArgumentsOffset));
        request.Arguments.CopyTo(new Span<byte>(entry.Headers + ArgumentsOffset, ArgumentsOffset));
        request.Payload.CopyTo(new Span<byte>(entry.Payload, entry.Slot.PayloadCapacity));
        ulong unique = MemoryMarshal.Read<ulong>(request.Header.AsSpan(8));
        _uniques[entry.Index] = unique;
        _commits[entry.Index] = unique ^ 0x5555;
        *(ulong*)(entry.Headers + CommitOffset) = unique ^ 0x5555;
        *(uint*)(entry.Headers + PayloadSizeOffset) = request.StatedPayload;
        return new FuseRingEvent(FuseRingEventKind.Request, entry, entry.Accept());
    }

    private readonly record struct Happening
    {
        public FuseRingEventKind Kind { get; init; }

        public FakeRingRequest? Request { get; init; }

        public FuseRingEntry? Entry { get; init; }

        public int Value { get; init; }
    }
}
