// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Transport;

/// <summary>
/// Requests by read(2) from /dev/fuse and replies by write(2) to it (fuse(4)), each worker on a clone of the
/// session's descriptor, so that workers do not meet on one queue of requests in work.
/// </summary>
public sealed unsafe class DevFuseTransport : IFuseTransport
{
    private readonly int _session;
    private readonly bool _isWatched;
    private readonly Queue<int> _adopted = new();
    private readonly List<int> _clones = [];

    private bool _disposed;

    /// <summary>Takes over <paramref name="session"/>, a descriptor of /dev/fuse that has been mounted.</summary>
    /// <param name="isWatched">Whether fusermount3 waits for the end of this process, to unmount.</param>
    public DevFuseTransport(int session, bool isWatched = false)
    {
        _session = session;
        _isWatched = isWatched;
        ServingThread.PrepareInterrupts();
    }

    /// <summary>The session's own descriptor.</summary>
    public int Session => _session;

    /// <summary>Whether the session still has its mount; false once this is disposed.</summary>
    public bool IsConnected => !_disposed && FuseDevice.IsConnected(_session);

    /// <summary>The clones that workers were given; closed with their slots.</summary>
    public IReadOnlyList<int> Clones => _clones;

    /// <summary>
    /// Takes over clones of an earlier process, for the workers to be created. Whatever request was read from one
    /// can be answered through it only.
    /// </summary>
    public void Adopt(IEnumerable<int> clones)
    {
        foreach (int clone in clones)
            _adopted.Enqueue(clone);
    }

    /// <inheritdoc/>
    public FuseSlot CreateSlot(int payloadCapacity)
    {
        // A user whom fusermount3 mounted for may be barred from /dev/fuse; the session's own descriptor serves too.
        if (!_adopted.TryDequeue(out int descriptor))
            descriptor = FuseDevice.Clone(_session);
        if (descriptor >= 0)
            _clones.Add(descriptor);
        else
            descriptor = FuseDevice.Duplicate(_session);
        if (descriptor < 0)
        {
            throw new FuseMountException(
                FuseMountError.System, $"{FuseDevice.Path}: {Errno.Text(-descriptor)}");
        }

        return new FuseSlot(payloadCapacity, descriptor);
    }

    /// <inheritdoc/>
    public int Receive(FuseSlot slot)
    {
        while (true)
        {
            int result = FuseDevice.Read(slot.Descriptor, slot.Request, slot.RequestCapacity);
            if (result > 0)
                return result;

            switch (-result)
            {
                // The request was aborted before it was read.
                case Errno.ENOENT:
                case Errno.EAGAIN:
                    continue;
                case Errno.EINTR:
                    return 0;

                // ENODEV is an unmount. Anything else (ECONNABORTED, EBADF) would come back for ever as well.
                default:
                    return -1;
            }
        }
    }

    /// <inheritdoc/>
    public void Reply(FuseSlot slot, int length)
    {
        int result = Write(slot, length);

        // ENOENT is a request that was aborted meanwhile, ENODEV an unmount, which the next Receive meets too.
        if (result >= 0 || -result is Errno.ENOENT or Errno.ENODEV)
            return;

        // The kernel did not take the reply, so somebody still waits for one.
        FuseOutHeader* header = (FuseOutHeader*)slot.Reply;
        header->Length = FuseAbi.OutHeaderSize;
        header->Error = -Errno.EIO;
        Write(slot, FuseAbi.OutHeaderSize);
    }

    /// <inheritdoc/>
    public int Notify(ReadOnlySpan<byte> message)
    {
        int result;
        fixed (byte* bytes = message)
        {
            do
                result = FuseDevice.Write(_session, bytes, message.Length);
            while (result == -Errno.EINTR);
        }

        return result;
    }

    /// <inheritdoc/>
    public void Interrupt(FuseSlot slot)
    {
        int thread = slot.ThreadId;
        if (thread != 0)
            ServingThread.Interrupt(thread);
    }

    /// <inheritdoc/>
    public IReadOnlyList<IFuseRing> CreateRings(int payloadCapacity, out string refusal)
    {
        if (!_isWatched)
            return FuseUringPlan.Create(_session, payloadCapacity, out refusal);

        // Rings keep the session alive for a moment after the process. fusermount3 looks once, within that moment, and
        // takes a mount that still answers for one that somebody else serves.
        refusal = "auto_unmount works with /dev/fuse only";
        return [];
    }

    /// <inheritdoc/>
    public void ReleaseSlot(FuseSlot slot)
    {
        FuseDevice.Close(slot.Descriptor);
        slot.Dispose();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        while (_adopted.TryDequeue(out int clone))
            FuseDevice.Close(clone);
        FuseDevice.Close(_session);
    }

    private static int Write(FuseSlot slot, int length)
    {
        int result;
        do
            result = FuseDevice.Write(slot.Descriptor, slot.Reply, length);
        while (result == -Errno.EINTR);
        return result;
    }
}
