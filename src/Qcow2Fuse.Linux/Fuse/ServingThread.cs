// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Fuse;

/// <summary>
/// What a thread that serves a file system asks of the kernel, and how it is woken from a blocking call.
/// </summary>
public static unsafe partial class ServingThread
{
    // A real-time signal of glibc's range 34 to 64; .NET itself uses the first of them.
    private const int WakeSignal = 42;

    private const int SetIOFlusher = 57;

    /// <summary>
    /// prctl(PR_SET_IO_FLUSHER) for the calling thread, and the threads and programs it starts from then on: memory it
    /// needs is found without waiting for the file system it serves. −EPERM without CAP_SYS_RESOURCE, −EINVAL before
    /// Linux 5.6.
    /// </summary>
    public static int TrySetIOFlusher(bool on = true)
    {
        int result = PrctlNative(SetIOFlusher, on ? 1u : 0u, 0, 0, 0);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? 0 : -errno;
    }

    /// <summary>The kernel's number of the calling thread.</summary>
    public static int CurrentId() => GettidNative();

    /// <summary>
    /// Makes <see cref="Interrupt"/> end a blocking call with EINTR and do nothing else. Once per process.
    /// </summary>
    public static void PrepareInterrupts()
    {
        // abs(3) has a signal handler's signature and no effect; managed code must not run in a handler.
        SignalAction action = new()
        {
            Handler = NativeLibrary.GetExport(NativeLibrary.GetMainProgramHandle(), "abs"),
        };
        int result = SigactionNative(WakeSignal, &action, null);
        int errno = Marshal.GetLastPInvokeError();
        if (result < 0)
            throw new InvalidOperationException($"sigaction: {Marshal.GetPInvokeErrorMessage(errno)}");
    }

    /// <summary>Interrupts a thread of this process. −ESRCH if it has ended.</summary>
    public static int Interrupt(int threadId)
    {
        int result = TgkillNative(Environment.ProcessId, threadId, WakeSignal);
        int errno = Marshal.GetLastPInvokeError();
        return result >= 0 ? 0 : -errno;
    }

    [LibraryImport("libc", EntryPoint = "prctl", SetLastError = true)]
    private static partial int PrctlNative(int option, nuint a, nuint b, nuint c, nuint d);

    [LibraryImport("libc", EntryPoint = "gettid")]
    private static partial int GettidNative();

    [LibraryImport("libc", EntryPoint = "tgkill", SetLastError = true)]
    private static partial int TgkillNative(int process, int thread, int signal);

    [LibraryImport("libc", EntryPoint = "sigaction", SetLastError = true)]
    private static partial int SigactionNative(int signal, SignalAction* action, SignalAction* old);

    /// <summary>struct sigaction of glibc and musl on 64-bit processors. No SA_RESTART: calls end with EINTR.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 152)]
    private struct SignalAction
    {
        [FieldOffset(0)]
        public nint Handler;
    }
}
