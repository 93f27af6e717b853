// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Testing.Fuse;

/// <summary>A reply as the kernel gets it.</summary>
/// <param name="Error">0 or a negated error number.</param>
/// <param name="Payload">What follows the header.</param>
public sealed record FakeReply(int Error, byte[] Payload)
{
    /// <summary>The payload as a struct of the protocol.</summary>
    public T As<T>()
        where T : unmanaged
    {
        if (Payload.Length != Marshal.SizeOf<T>())
            throw new InvalidDataException($"{Payload.Length} bytes of payload for {typeof(T).Name}");
        return MemoryMarshal.Read<T>(Payload);
    }
}

/// <summary>
/// The kernel's side of a FUSE session, played by a test: it sends requests to a server's workers and checks what
/// the kernel checks in their replies.
/// </summary>
public sealed unsafe class FakeKernel : IFuseTransport
{
    private const int HeaderSize = 40;
    private const int ReplyHeaderSize = 16;
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly BlockingCollection<byte[]> _requests = [];
    private readonly ConcurrentDictionary<ulong, TaskCompletionSource<FakeReply>> _waiting = new();
    private readonly ConcurrentQueue<string> _complaints = new();

    private CancellationTokenSource _interrupt = new();
    private long _unique;
    private int _received;

    /// <summary>Requests the workers have taken.</summary>
    public int Received => Volatile.Read(ref _received);

    /// <summary>Replies the kernel would have thrown away, described.</summary>
    public IReadOnlyCollection<string> Complaints => _complaints;

    /// <summary>Sends a request of fixed arguments and a payload and waits for the reply.</summary>
    public FakeReply Send<T>(uint opcode, ulong node, in T arguments, ReadOnlySpan<byte> payload = default)
        where T : unmanaged =>
        Send(opcode, node, Join(MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in arguments)), payload));

    /// <summary>Sends a request of any body and waits for the reply.</summary>
    public FakeReply Send(uint opcode, ulong node, ReadOnlySpan<byte> body)
    {
        Task<FakeReply> reply = SendAsync(opcode, node, body);
        if (!reply.Wait(Patience))
            throw new TimeoutException($"no reply to operation {opcode}");
        return reply.Result;
    }

    /// <summary>Sends a request and returns its reply to come.</summary>
    public Task<FakeReply> SendAsync(uint opcode, ulong node, ReadOnlySpan<byte> body)
    {
        ulong unique = NextUnique();
        TaskCompletionSource<FakeReply> completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
        _waiting[unique] = completion;
        _requests.Add(BuildRequest(opcode, node, unique, body));
        return completion.Task;
    }

    /// <summary>Sends a request that gets no reply; one that comes all the same is a complaint.</summary>
    public void Post(uint opcode, ulong node, ReadOnlySpan<byte> body) =>
        _requests.Add(BuildRequest(opcode, node, NextUnique(), body));

    /// <summary>Sends bytes as they are, whatever they are.</summary>
    public void PostRaw(byte[] request) => _requests.Add(request);

    /// <summary>
    /// Sends a whole request, however malformed, and returns its reply to come; null for one that must get none.
    /// </summary>
    public Task<FakeReply>? SendRawAsync(byte[] request, bool wantsReply)
    {
        TaskCompletionSource<FakeReply> completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
        if (wantsReply)
            _waiting[MemoryMarshal.Read<ulong>(request.AsSpan(8))] = completion;
        _requests.Add(request);
        return wantsReply ? completion.Task : null;
    }

    /// <summary>The rings the server gets when it asks for some; none unless a test says how many.</summary>
    public IReadOnlyList<FakeRing> Rings { get; private set; } = [];

    /// <summary>How many rings there are to be.</summary>
    public int RingCount { get; init; }

    /// <summary>Entries of each ring.</summary>
    public int RingDepth { get; init; } = 4;

    /// <summary>
    /// Called for each transfer, on a thread of its own; what it returns is the transfer's result, and null has the
    /// transfer done.
    /// </summary>
    public Func<FuseTransfer, int?> OnTransfer { get; set; } = static _ => null;

    /// <summary>What a read that must not wait comes to; null for what the file has.</summary>
    public Func<FuseTransfer, int?> OnReadNow { get; set; } = static _ => null;

    /// <summary>What opening a ring results in: 0 or a negated error number.</summary>
    public int RingOpenResult { get; init; }

    /// <summary>What the registration of a ring results in.</summary>
    public int RingRegisterResult { get; init; }

    /// <summary>Unmounts: no more requests.</summary>
    public void End()
    {
        _requests.CompleteAdding();
        foreach (FakeRing ring in Rings)
            ring.End();
    }

    /// <summary>A request's bytes: header and body.</summary>
    public static byte[] BuildRequest(uint opcode, ulong node, ulong unique, ReadOnlySpan<byte> body)
    {
        byte[] request = new byte[HeaderSize + body.Length];
        Span<byte> span = request;
        MemoryMarshal.Write(span, (uint)request.Length);
        MemoryMarshal.Write(span[4..], opcode);
        MemoryMarshal.Write(span[8..], unique);
        MemoryMarshal.Write(span[16..], node);
        MemoryMarshal.Write(span[32..], (uint)Environment.ProcessId);
        body.CopyTo(span[HeaderSize..]);
        return request;
    }

    /// <summary>A name as it travels: its bytes and a NUL.</summary>
    public static byte[] Name(string name) => [.. System.Text.Encoding.UTF8.GetBytes(name), 0];

    /// <summary>Two runs of bytes one after the other.</summary>
    public static byte[] Join(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second) => [.. first, .. second];

    /// <inheritdoc/>
    public FuseSlot CreateSlot(int payloadCapacity) => new(payloadCapacity, descriptor: 0);

    /// <inheritdoc/>
    public IReadOnlyList<IFuseRing> CreateRings(int payloadCapacity, out string refusal)
    {
        refusal = RingCount > 0 ? "" : "the fake kernel has none";
        Rings = [.. Enumerable.Range(0, RingCount)
            .Select(queue => new FakeRing(this, queue, RingDepth, payloadCapacity))];
        return Rings;
    }

    internal void Complain(string complaint) => _complaints.Enqueue(complaint);

    /// <inheritdoc/>
    public int Receive(FuseSlot slot)
    {
        try
        {
            if (!_requests.TryTake(out byte[]? request, Timeout.Infinite, Volatile.Read(ref _interrupt).Token))
                return -1;
            Interlocked.Increment(ref _received);
            request.CopyTo(new Span<byte>(slot.Request, slot.RequestCapacity));
            return request.Length;
        }
        catch (OperationCanceledException)
        {
            return 0;
        }
    }

    /// <inheritdoc/>
    public void Reply(FuseSlot slot, int length)
    {
        ReadOnlySpan<byte> reply = new(slot.Reply, length);
        int stated = MemoryMarshal.Read<int>(reply);
        int error = MemoryMarshal.Read<int>(reply[4..]);
        ulong unique = MemoryMarshal.Read<ulong>(reply[8..]);
        if (stated != length)
            _complaints.Enqueue($"length {stated} in a reply of {length} bytes");
        if (error is > 0 or <= -512)
            _complaints.Enqueue($"error {error}");
        if (error != 0 && length != ReplyHeaderSize)
            _complaints.Enqueue($"error {error} with a payload");
        if (_waiting.TryRemove(unique, out TaskCompletionSource<FakeReply>? completion))
            completion.SetResult(new FakeReply(error, reply[ReplyHeaderSize..].ToArray()));
        else
            _complaints.Enqueue($"a reply to {unique}, which nobody waits for");
    }

    /// <summary>Notifications, in the order in which they came.</summary>
    public ConcurrentQueue<byte[]> Notifications { get; } = new();

    /// <summary>Called on the thread of each notification; its result is the answer of the system call.</summary>
    public Func<byte[], int> OnNotify { get; set; } = static message => message.Length;

    /// <inheritdoc/>
    public int Notify(ReadOnlySpan<byte> message)
    {
        byte[] bytes = message.ToArray();
        int result = OnNotify(bytes);
        Notifications.Enqueue(bytes);
        return result;
    }

    /// <inheritdoc/>
    public void Interrupt(FuseSlot slot) =>
        Interlocked.Exchange(ref _interrupt, new CancellationTokenSource()).Cancel();

    /// <inheritdoc/>
    public void ReleaseSlot(FuseSlot slot) => slot.Dispose();

    /// <inheritdoc/>
    public void Dispose()
    {
        _requests.Dispose();
        _interrupt.Dispose();
    }

    private ulong NextUnique() => (ulong)Interlocked.Add(ref _unique, 2);
}
