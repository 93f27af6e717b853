// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Uring;

namespace Qcow2Fuse.Fuse.Transport;

/// <summary>
/// A ring of FUSE over io_uring (Documentation/filesystems/fuse-io-uring.rst): entries are registered with queues of
/// the session, and each comes back with a request, goes with the reply and comes with the next request. In between it
/// may go once more, with a transfer between its payload and a file.
/// </summary>
internal sealed unsafe class FuseUring : IFuseRing
{
    private const int VectorsPerEntry = 2;

    /// <summary>Reads past the page cache that are given to the kernel together.</summary>
    private const int ReadsAtOnce = 2;

    private const int KindBits = 2;
    private const ulong KindMask = (1 << KindBits) - 1;

    private readonly int _session;
    private readonly FuseRingEntry[] _entries;
    private readonly FuseRingOperation[] _operations;

    private IOUring? _ring;
    private WakeEvent? _wake;
    private int _transfers;
    private int _waitingReads;

    /// <summary>Makes the memory of the entries, one for each queue named.</summary>
    /// <param name="session">Descriptor of the session; it stays the caller's.</param>
    /// <param name="processor">As <see cref="Processor"/>.</param>
    /// <param name="queues">A number for each entry; several may be equal.</param>
    /// <param name="payloadCapacity">As for <see cref="FuseRingEntry"/>.</param>
    public FuseUring(int session, int? processor, IReadOnlyList<int> queues, int payloadCapacity)
    {
        _session = session;
        Processor = processor;
        _entries = [.. queues.Select((queue, index) => new FuseRingEntry(queue, payloadCapacity) { Index = index })];
        _operations = new FuseRingOperation[_entries.Length];
    }

    /// <summary>What a completion is about, in the lower bits of its number.</summary>
    private enum Kind : ulong
    {
        Command,
        Transfer,
        Wake,
    }

    /// <inheritdoc/>
    public int? Processor { get; }

    /// <inheritdoc/>
    public int Count => _entries.Length;

    /// <summary>
    /// Asks whether the kernel would take entries, by giving it one before INIT, which is too early.
    /// </summary>
    /// <returns>0 if that is its only objection, otherwise a negated error number.</returns>
    public static int Probe(int session)
    {
        using FuseUring ring = new(session, processor: null, [0], 2 * FuseSlot.PageSize);
        int result = ring.Open();
        if (result < 0)
            return result;
        ring.Add(0, FuseRingOperation.Register);
        do
            result = ring._ring!.Enter(wait: true);
        while (result == -Errno.EINTR);
        if (result < 0)
            return result;
        if (!ring._ring.TryTake(out _, out result))
            return -Errno.EIO;
        if (result == -Errno.EAGAIN)
            return 0;
        return result < 0 ? result : -Errno.EIO;
    }

    /// <inheritdoc/>
    public int Open()
    {
        // Never more at once than one submission for each entry and one to be woken by.
        int result = IOUring.Create(_entries.Length + 1, out _ring);
        return result < 0 ? result : WakeEvent.Create(out _wake);
    }

    /// <inheritdoc/>
    public int Register()
    {
        for (int index = 0; index < _entries.Length; index++)
            Add(index, FuseRingOperation.Register);
        AddWake();
        int left = _entries.Length + 1;
        while (left > 0)
        {
            int result = _ring!.Enter(wait: false);
            if (result < 0 && result != -Errno.EINTR)
                return result;
            left -= Math.Max(result, 0);
        }

        // What is refused is refused at once; what is taken has no completion before there is a request.
        return _ring!.FindFailure();
    }

    /// <inheritdoc/>
    public FuseRingEvent Receive()
    {
        while (true)
        {
            // The disk begins while the rest of a batch is still looked at; writes are faster together. What the kernel
            // does not take now it takes, or refuses, below.
            if (_waitingReads >= ReadsAtOnce)
                _ = Enter(wait: false);
            if (!_ring!.TryTake(out ulong number, out int result))
            {
                int entered = Enter(wait: true);
                if (entered < 0 && -entered is not (Errno.EINTR or Errno.EAGAIN or Errno.EBUSY))
                    return new FuseRingEvent(FuseRingEventKind.Broken, Value: entered);
                if (!_ring.TryTake(out number, out result))
                    return new FuseRingEvent(FuseRingEventKind.Woken);
            }

            int index = (int)(number >> KindBits);
            switch ((Kind)(number & KindMask))
            {
                case Kind.Wake:
                    _wake!.Reset();
                    AddWake();
                    return new FuseRingEvent(FuseRingEventKind.Woken);
                case Kind.Transfer:
                    _transfers--;
                    return new FuseRingEvent(FuseRingEventKind.Transferred, _entries[index], result);
                case Kind.Command when -result is Errno.EINTR or Errno.EAGAIN:
                    Add(index, _operations[index]);
                    break;
                default:
                    return EventOf(_entries[index], result);
            }
        }
    }

    /// <inheritdoc/>
    public void Reply(FuseRingEntry entry) => Add(entry.Index, FuseRingOperation.CommitAndFetch);

    /// <inheritdoc/>
    public void Transfer(FuseRingEntry entry)
    {
        FuseTransfer transfer = entry.Transfer;
        UringCommand* command = _ring!.Next();
        command->Opcode = transfer.IsWrite ? UringCommand.Write : UringCommand.Read;
        command->Descriptor = transfer.Descriptor;
        command->Offset = transfer.Offset;
        command->Address = (ulong)entry.Payload;
        command->Length = (uint)transfer.Length;
        command->UserData = NumberOf(entry.Index, Kind.Transfer);
        _transfers++;
        if (!transfer.IsWrite && !transfer.IsCached)
            _waitingReads++;
    }

    /// <inheritdoc/>
    public int TryReadNow(FuseRingEntry entry) => LinuxFile.ReadCached(
        entry.Transfer.Descriptor, new Span<byte>(entry.Payload, entry.Transfer.Length), entry.Transfer.Offset);

    /// <inheritdoc/>
    public void Wake() => _wake?.Set();

    /// <inheritdoc/>
    public void Close()
    {
        if (_ring is null)
            return;

        // The last replies may not have been sent. Where the session has gone nobody waits for them.
        int result;
        do
            result = _ring.Enter(wait: false);
        while (result == -Errno.EINTR);
        _ring.Dispose();
        _ring = null;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Close();
        _wake?.Dispose();

        // Of a ring that broke the kernel may still fill the memory.
        if (_transfers > 0)
            return;
        foreach (FuseRingEntry entry in _entries)
            entry.Dispose();
    }

    private int Enter(bool wait)
    {
        _waitingReads = 0;
        return _ring!.Enter(wait);
    }

    private static FuseRingEvent EventOf(FuseRingEntry entry, int result)
    {
        if (result >= 0)
            return new FuseRingEvent(FuseRingEventKind.Request, entry, entry.Accept());
        return -result is Errno.ENOTCONN or Errno.ECONNABORTED or Errno.ENODEV
            ? new FuseRingEvent(FuseRingEventKind.Ended)
            : new FuseRingEvent(FuseRingEventKind.Failed, Value: result);
    }

    private static ulong NumberOf(int index, Kind kind) => ((ulong)index << KindBits) | (ulong)kind;

    private void AddWake()
    {
        UringCommand* command = _ring!.Next();
        command->Opcode = UringCommand.Poll;
        command->Descriptor = _wake!.Descriptor;
        command->Flags = WakeEvent.Readable;
        command->UserData = NumberOf(0, Kind.Wake);
    }

    private void Add(int index, FuseRingOperation operation)
    {
        FuseRingEntry entry = _entries[index];
        _operations[index] = operation;
        UringCommand* command = _ring!.Next();
        command->Opcode = UringCommand.DeviceCommand;
        command->Descriptor = _session;
        command->Operation = (uint)operation;
        command->UserData = NumberOf(index, Kind.Command);
        command->Device2 = (ushort)entry.Queue;
        if (operation == FuseRingOperation.CommitAndFetch)
        {
            command->Device1 = entry.CommitId;
            return;
        }

        // Read when the command is submitted; the payload is unused until then.
        FuseRingVector* vectors = (FuseRingVector*)entry.Payload;
        vectors[0] = new FuseRingVector { Base = entry.Headers, Length = FuseSlot.PageSize };
        vectors[1] = new FuseRingVector { Base = entry.Payload, Length = (nuint)entry.Slot.PayloadCapacity };
        command->Address = (ulong)vectors;
        command->Length = VectorsPerEntry;
    }
}
