// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Mono.Unix.Native;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// Starts the daemon behind a mount. A .NET process cannot fork, so the program runs itself again, marked by a
/// variable in its environment, and waits for the word that the mount answers.
/// </summary>
/// <remarks>
/// The new process has pipes for standard streams: the runtime duplicates them before any code of the program runs,
/// and a caller that reads its own streams to their end must not wait for the daemon's. What it writes to standard
/// error is passed on line by line; a line that begins with <see cref="ReadyMark"/> ends the start.
/// </remarks>
internal static class BackgroundStart
{
    private const string DaemonVariable = "QCOW2FUSE_DAEMON";
    private const char ReadyMark = '\x06';

    /// <summary>Whether this process is the one that was started.</summary>
    public static bool IsChild => Environment.GetEnvironmentVariable(DaemonVariable) is "1";

    /// <summary>Runs the same command line again and waits until it is ready or gives up.</summary>
    /// <param name="arguments">The arguments, a verb first.</param>
    /// <param name="feed">Writes what the new process finds on its standard input.</param>
    /// <param name="ready">Called with what the daemon says and its process id once the mount answers.</param>
    /// <returns>The exit code of the start.</returns>
    public static int Run(IReadOnlyList<string> arguments, Action<Stream> feed, Action<string, int> ready)
    {
        ProcessStartInfo start = new(Environment.ProcessPath ?? "/proc/self/exe", arguments)
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment[DaemonVariable] = "1";

        // The daemon's own limit (NativeHeap) comes after the runtime's first threads.
        start.Environment["MALLOC_ARENA_MAX"] = "2";
        using Process child = Process.Start(start)
            ?? throw new CommandException(ExitCode.System, "the daemon cannot be started");
        Feed(child, feed);
        while (child.StandardError.ReadLine() is { } line)
        {
            if (line.StartsWith(ReadyMark))
            {
                ready(line[1..], child.Id);
                return ExitCode.Success;
            }

            StandardError.WriteLine(line);
        }

        // The end without the word: it has said why.
        child.WaitForExit();
        return child.ExitCode switch
        {
            ExitCode.Success => ExitCode.MountFailed,
            > 128 => ExitCode.Internal,
            _ => child.ExitCode,
        };
    }

    private static void Feed(Process child, Action<Stream> feed)
    {
        try
        {
            feed(child.StandardInput.BaseStream);
        }
        finally
        {
            child.StandardInput.Close();
        }
    }

    /// <summary>
    /// In the new process: leaves the caller's session, so that neither Ctrl-C nor a hangup there reaches it.
    /// </summary>
    public static void Detach()
    {
        // Fails only where the process leads a group already, which means that it is detached.
        _ = Syscall.setsid();
    }

    /// <summary>In the new process: says that the mount answers, and lets go of the standard streams.</summary>
    /// <exception cref="IOException">Whoever waited has gone.</exception>
    public static void ReportReady(string status)
    {
        if (!StandardError.TryWriteLine(ReadyMark + status))
            throw new IOException("the starting process has gone");
        int nowhere = LinuxFile.Open("/dev/null", Linux.OpenFlags.ReadWrite | Linux.OpenFlags.CloseOnExec);
        if (nowhere < 0)
            return;
        for (int stream = 0; stream <= 2; stream++)
            _ = Syscall.dup2(nowhere, stream);
        _ = LinuxFile.Close(nowhere);
    }
}
