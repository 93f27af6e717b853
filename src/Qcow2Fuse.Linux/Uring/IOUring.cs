// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Uring;

/// <summary>
/// An io_uring(7) of large submissions (IORING_SETUP_SQE128), used by the one thread that made it. Results are 0 or
/// more, or negated error numbers; nothing on the way of a request allocates managed memory.
/// </summary>
public sealed unsafe partial class IOUring : IDisposable
{
    private const uint LargeSubmissions = 1 << 10;
    private const uint SingleIssuer = 1 << 12;
    private const uint DeferTaskRun = 1 << 13;
    private const uint FeatureSingleMap = 1;
    private const uint EnterGetEvents = 1;

    private readonly int _descriptor;

    private byte* _rings;
    private nuint _ringsLength;
    private byte* _submissions;
    private nuint _submissionsLength;

    private uint* _submitHead;
    private uint* _submitTail;
    private uint _submitMask;
    private uint _submitCount;
    private uint* _completeHead;
    private uint* _completeTail;
    private uint _completeMask;
    private Completion* _completions;

    private uint _tail;
    private uint _pending;
    private bool _disposed;

    private IOUring(int descriptor) => _descriptor = descriptor;

    /// <summary>
    /// Makes a ring for the calling thread (IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_DEFER_TASKRUN).
    /// </summary>
    /// <param name="entries">Commands that are under way at once, 1 to 32768.</param>
    /// <param name="ring">The ring where the result is 0.</param>
    /// <returns>
    /// −ENOSYS or −EPERM where there is no io_uring or it is forbidden, −EINVAL before Linux 6.1, −ENOMEM.
    /// </returns>
    public static int Create(int entries, out IOUring? ring)
    {
        ring = null;
        SetupParameters parameters = new() { Flags = LargeSubmissions | SingleIssuer | DeferTaskRun };
        int descriptor = (int)SetupNative(SetupNumber, (nuint)entries, &parameters);
        int errno = Marshal.GetLastPInvokeError();
        if (descriptor < 0)
            return -errno;

        IOUring made = new(descriptor);
        int result = made.Map(parameters);
        if (result < 0)
        {
            made.Dispose();
            return result;
        }

        ring = made;
        return 0;
    }

    /// <summary>
    /// The next submission, zeroed, to be filled before the next <see cref="Enter"/>. Null where as many are pending
    /// as there are entries.
    /// </summary>
    public UringCommand* Next()
    {
        if (_tail - Volatile.Read(ref *_submitHead) >= _submitCount)
            return null;
        UringCommand* command = (UringCommand*)_submissions + (_tail & _submitMask);
        *command = default;
        _tail++;
        _pending++;
        return command;
    }

    /// <summary>
    /// Submits what was filled in, and waits for a completion if <paramref name="wait"/>. −EINTR after a signal.
    /// </summary>
    public int Enter(bool wait)
    {
        Volatile.Write(ref *_submitTail, _tail);
        nint result = EnterNative(
            EnterNumber, _descriptor, _pending, wait ? 1u : 0u, wait ? EnterGetEvents : 0u, null, 0);
        int errno = Marshal.GetLastPInvokeError();
        if (result < 0)
            return -errno;
        _pending -= Math.Min((uint)result, _pending);
        return (int)result;
    }

    /// <summary>Takes the oldest completion. False where there is none.</summary>
    public bool TryTake(out ulong userData, out int result)
    {
        uint head = *_completeHead;
        if (head == Volatile.Read(ref *_completeTail))
        {
            userData = 0;
            result = 0;
            return false;
        }

        Completion* completion = _completions + (head & _completeMask);
        userData = completion->UserData;
        result = completion->Result;
        Volatile.Write(ref *_completeHead, head + 1);
        return true;
    }

    /// <summary>The first result below 0 among the completions that are there to be taken; 0 where none is.</summary>
    public int FindFailure()
    {
        uint tail = Volatile.Read(ref *_completeTail);
        for (uint head = *_completeHead; head != tail; head++)
        {
            int result = _completions[head & _completeMask].Result;
            if (result < 0)
                return result;
        }

        return 0;
    }

    /// <summary>Cancels what is under way and closes the ring.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _ = CloseNative(_descriptor);
        if (_submissions != null)
            _ = UnmapNative(_submissions, _submissionsLength);
        if (_rings != null)
            _ = UnmapNative(_rings, _ringsLength);
        _submissions = null;
        _rings = null;
    }

    private int Map(in SetupParameters parameters)
    {
        // Both queues in one mapping is what every kernel with large submissions does.
        if ((parameters.Features & FeatureSingleMap) == 0)
            return -Errno.ENOSYS;

        nuint submitLength = parameters.SubmitOffsets.Array + (parameters.SubmitEntries * sizeof(uint));
        nuint completeLength =
            parameters.CompleteOffsets.Completions + (parameters.CompleteEntries * (nuint)sizeof(Completion));
        _ringsLength = Math.Max(submitLength, completeLength);
        int result = TryMap(_descriptor, _ringsLength, RingsOffset, out _rings);
        if (result < 0)
            return result;
        _submissionsLength = parameters.SubmitEntries * (nuint)sizeof(UringCommand);
        result = TryMap(_descriptor, _submissionsLength, SubmissionsOffset, out _submissions);
        if (result < 0)
            return result;

        _submitHead = (uint*)(_rings + parameters.SubmitOffsets.Head);
        _submitTail = (uint*)(_rings + parameters.SubmitOffsets.Tail);
        _submitMask = *(uint*)(_rings + parameters.SubmitOffsets.RingMask);
        _submitCount = parameters.SubmitEntries;
        _completeHead = (uint*)(_rings + parameters.CompleteOffsets.Head);
        _completeTail = (uint*)(_rings + parameters.CompleteOffsets.Tail);
        _completeMask = *(uint*)(_rings + parameters.CompleteOffsets.RingMask);
        _completions = (Completion*)(_rings + parameters.CompleteOffsets.Completions);

        // Submissions are used in turn, so the indirection stays as it is.
        uint* array = (uint*)(_rings + parameters.SubmitOffsets.Array);
        for (uint i = 0; i < _submitCount; i++)
            array[i] = i;
        _tail = *_submitTail;
        return 0;
    }
}
