// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux;

namespace Qcow2Fuse.Fuse;

/// <summary>
/// A ring of FUSE over io_uring (Documentation/filesystems/fuse-io-uring.rst): entries are registered with queues of
/// the session, and each comes back with a request, goes with the reply and comes with the next request.
/// </summary>
internal sealed unsafe class FuseUring : IFuseRing
{
    private const int VectorsPerEntry = 2;

    private readonly int _session;
    private readonly FuseRingEntry[] _entries;
    private readonly FuseRingOperation[] _operations;

    private IOUring? _ring;
    private volatile int _threadId;

    /// <summary>Makes the memory of the entries, one for each queue named.</summary>
    /// <param name="session">Descriptor of the session; it stays the caller's.</param>
    public FuseUring(int session, int? processor, IReadOnlyList<int> queues, int payloadCapacity)
    {
        _session = session;
        Processor = processor;
        _entries = [.. queues.Select(queue => new FuseRingEntry(queue, payloadCapacity))];
        _operations = new FuseRingOperation[_entries.Length];
    }

    /// <inheritdoc/>
    public int? Processor { get; }

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
        while (result == -FuseErrno.EINTR);
        if (result < 0)
            return result;
        if (!ring._ring.TryTake(out _, out result))
            return -FuseErrno.EIO;
        if (result == -FuseErrno.EAGAIN)
            return 0;
        return result < 0 ? result : -FuseErrno.EIO;
    }

    /// <inheritdoc/>
    public int Open()
    {
        int result = IOUring.Create(_entries.Length, out _ring);
        if (result == 0)
            _threadId = ServingThread.CurrentId();
        return result;
    }

    /// <inheritdoc/>
    public int Register()
    {
        for (int index = 0; index < _entries.Length; index++)
            Add(index, FuseRingOperation.Register);
        int left = _entries.Length;
        while (left > 0)
        {
            int result = _ring!.Enter(wait: false);
            if (result < 0 && result != -FuseErrno.EINTR)
                return result;
            left -= Math.Max(result, 0);
        }

        // What is refused is refused at once; what is taken has no completion before there is a request.
        return _ring!.FindFailure();
    }

    /// <inheritdoc/>
    public int Receive(out FuseRingEntry? entry)
    {
        entry = null;
        while (true)
        {
            if (!_ring!.TryTake(out ulong index, out int result))
            {
                int entered = _ring.Enter(wait: true);
                if (entered < 0 && -entered is not (FuseErrno.EINTR or FuseErrno.EAGAIN or FuseErrno.EBUSY))
                    return entered;
                if (!_ring.TryTake(out index, out result))
                    return 0;
            }

            if (result >= 0)
            {
                entry = _entries[index];
                return entry.Accept();
            }

            switch (-result)
            {
                case FuseErrno.EINTR:
                case FuseErrno.EAGAIN:
                    Add((int)index, _operations[index]);
                    break;
                case FuseErrno.ENOTCONN:
                case FuseErrno.ECONNABORTED:
                case FuseErrno.ENODEV:
                    return -FuseErrno.ENOTCONN;
                default:
                    return result;
            }
        }
    }

    /// <inheritdoc/>
    public void Reply(FuseRingEntry entry) => Add(Array.IndexOf(_entries, entry), FuseRingOperation.CommitAndFetch);

    /// <inheritdoc/>
    public void Interrupt()
    {
        int thread = _threadId;
        if (thread != 0)
            ServingThread.Interrupt(thread);
    }

    /// <inheritdoc/>
    public void Close()
    {
        _threadId = 0;
        if (_ring is null)
            return;

        // The reply of the last request in work may not have been sent. Where the session has gone nobody waits for it.
        int result;
        do
            result = _ring.Enter(wait: false);
        while (result == -FuseErrno.EINTR);
        _ring.Dispose();
        _ring = null;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Close();
        foreach (FuseRingEntry entry in _entries)
            entry.Dispose();
    }

    private void Add(int index, FuseRingOperation operation)
    {
        FuseRingEntry entry = _entries[index];
        _operations[index] = operation;

        // There is never more than one command for an entry, so there is always a place.
        UringCommand* command = _ring!.Next();
        command->Opcode = UringCommand.DeviceCommand;
        command->Descriptor = _session;
        command->Operation = (uint)operation;
        command->UserData = (ulong)index;
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
