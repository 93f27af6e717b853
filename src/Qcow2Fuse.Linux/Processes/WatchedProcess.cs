// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// A process of anybody, held so that its end is seen and another process that gets its number is not taken for it
/// (pidfd_open(2)). Before Linux 5.3, and where a sandbox refuses that, its number is looked for in /proc.
/// </summary>
public sealed unsafe partial class WatchedProcess : IDisposable
{
    private const int SyscallPidfdOpen = 434;

    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(20);

    private int _descriptor;

    private WatchedProcess(int id, int descriptor)
    {
        Id = id;
        _descriptor = descriptor;
    }

    /// <summary>Its process id.</summary>
    public int Id { get; }

    /// <summary>Holds a process; null where there is none of that number.</summary>
    public static WatchedProcess? Open(int id)
    {
        int descriptor = OpenDescriptor(id);
        return descriptor >= 0 || IsRunning(id) ? new WatchedProcess(id, descriptor) : null;
    }

    /// <summary>Whether a process has not ended; one that only waits for its parent to take notice has.</summary>
    public static bool IsRunning(int id)
    {
        try
        {
            // The name before the state is in parentheses and may hold any character.
            string stat = File.ReadAllText(string.Create(CultureInfo.InvariantCulture, $"/proc/{id}/stat"));
            int end = stat.LastIndexOf(')');
            return end + 2 < stat.Length && stat[end + 2] is not ('Z' or 'X');
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>When a process was started, in ticks of the kernel's clock; 0 for one that has ended.</summary>
    public static ulong StartOf(int id)
    {
        const int FieldsBehindName = 19;
        try
        {
            string stat = File.ReadAllText(string.Create(CultureInfo.InvariantCulture, $"/proc/{id}/stat"));
            string[] fields = stat[(stat.LastIndexOf(')') + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries);
            return fields.Length > FieldsBehindName
                && ulong.TryParse(fields[FieldsBehindName], CultureInfo.InvariantCulture, out ulong start) ? start : 0;
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return 0;
        }
    }

    /// <summary>Waits until it has ended with all its threads, so that its files are closed.</summary>
    /// <param name="patience">How long to wait.</param>
    /// <returns>False where it has not ended by then.</returns>
    public bool WaitUntilOver(TimeSpan patience)
    {
        if (_descriptor >= 0)
            return WaitUntilOver(_descriptor, patience);
        for (Stopwatch waited = Stopwatch.StartNew(); IsRunning(Id); Thread.Sleep(Period))
        {
            if (waited.Elapsed > patience)
                return false;
        }

        return true;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_descriptor >= 0)
            _ = LinuxFile.Close(_descriptor);
        _descriptor = -1;
    }

    /// <summary>A descriptor of a process, or a negative number.</summary>
    internal static int OpenDescriptor(int id) => (int)PidfdOpenNative(SyscallPidfdOpen, id, 0);

    /// <summary>Waits until the process of a descriptor has ended; false where it has not by then.</summary>
    internal static bool WaitUntilOver(int descriptor, TimeSpan patience)
    {
        Stopwatch waited = Stopwatch.StartNew();
        while (true)
        {
            int left = (int)Math.Clamp((patience - waited.Elapsed).TotalMilliseconds, 0, int.MaxValue);
            int result = Polling.Wait(descriptor, Polling.Readable, left, out _);
            if (result != -Errno.EINTR)
                return result > 0;
        }
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint PidfdOpenNative(nint number, int process, uint flags);
}
