// SPDX-License-Identifier: MIT
using System.Globalization;
using Mono.Unix.Native;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;
using Errno = Qcow2Fuse.Linux.Libc.Errno;
using OpenFlags = Qcow2Fuse.Linux.Libc.OpenFlags;

namespace Qcow2Fuse.Start;

/// <summary>
/// Starts the daemon behind a mount. A .NET process cannot fork, so the program runs itself again, marked by a
/// variable in its environment, and waits for the word that the mount answers (<see cref="ReadyWord"/>). What the
/// daemon says before that is passed on.
/// </summary>
internal static class BackgroundStart
{
    private const string DaemonVariable = "QCOW2FUSE_DAEMON";
    private const string Plain = "1";
    private const string Private = "private";
    private const string Tied = "tied:";

    /// <summary>Whether this process is the one that was started.</summary>
    public static bool IsChild => Role is { Length: > 0 };

    /// <summary>Whether the mount point was made for this mount alone and goes with it.</summary>
    public static bool IsPrivate => IsChild && Role is not Plain;

    /// <summary>
    /// Whether this process gets SIGTERM when the one that started it ends: once for each thread there that it passes
    /// to on the way, all within a moment.
    /// </summary>
    public static bool IsTied => Role is { } role && role.StartsWith(Tied, StringComparison.Ordinal);

    private static string? Role => Environment.GetEnvironmentVariable(DaemonVariable);

    /// <summary>Runs the same command line again and waits until it is ready or gives up.</summary>
    /// <param name="arguments">The arguments, a verb first.</param>
    /// <param name="input">What the new process finds on its standard input; empty for nothing.</param>
    /// <param name="descriptors">Descriptors that its command line names, which it gets.</param>
    /// <param name="ready">Called with what the daemon says and its process id once the mount answers.</param>
    /// <returns>The exit code of the start.</returns>
    public static int Run(
        IReadOnlyList<string> arguments, ReadOnlySpan<byte> input, IReadOnlyCollection<int> descriptors,
        Action<string, int> ready)
    {
        using StartedProgram child = Launch(arguments, Plain, input, descriptors);
        if (ReadyWord.WaitFor(child.Errors) is not { } status)
            return ExitCodeOf(child.Wait());
        ready(status, child.Id);
        return ExitCode.Success;
    }

    /// <summary>
    /// Starts a daemon for a mount point that was made for it; it removes the mount point when it ends.
    /// </summary>
    /// <param name="arguments">The arguments, a verb first.</param>
    /// <param name="tied">It ends when this process ends, however that comes about. To be called on a thread that
    /// lives as long as the process.</param>
    /// <param name="exitCode">Why there is none.</param>
    /// <returns>The daemon, whose mount answers; null if it failed, and has said why.</returns>
    public static StartedProgram? StartPrivate(IReadOnlyList<string> arguments, bool tied, out int exitCode)
    {
        string role = tied ? string.Create(CultureInfo.InvariantCulture, $"{Tied}{Environment.ProcessId}") : Private;
        StartedProgram child = Launch(arguments, role, [], []);
        exitCode = ExitCode.Success;
        if (ReadyWord.WaitFor(child.Errors) is not null)
            return child;
        exitCode = ExitCodeOf(child.Wait());
        child.Dispose();
        return null;
    }

    /// <summary>In the new process: ends with the one that started it, if it is tied to that.</summary>
    /// <exception cref="IOException">That one has gone.</exception>
    public static void Tie()
    {
        if (IsTied && ProcessCalls.EndWithParent(int.Parse(Role![Tied.Length..], CultureInfo.InvariantCulture)) != 0)
            throw new IOException("the starting process has gone");
    }

    /// <summary>
    /// In the new process: leaves the caller's session, so that neither Ctrl-C nor a hangup there reaches it, says that
    /// the mount answers, and lets go of the standard streams.
    /// </summary>
    /// <remarks>
    /// Not before there is a mount: on a mount point of autofs the kernel lets nobody through to mount but the process
    /// group of the automounter, in which mount(8) runs.
    /// </remarks>
    /// <param name="status">What the mount shows.</param>
    /// <exception cref="IOException">Whoever waited has gone.</exception>
    public static void ReportReady(string status)
    {
        // Fails only where the process leads a group already, which means that it is detached.
        _ = Syscall.setsid();
        if (!ReadyWord.TrySay(status))
            throw new IOException("the starting process has gone");
        int nowhere = LinuxFile.Open("/dev/null", OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (nowhere < 0)
            return;
        for (int stream = 0; stream <= 2; stream++)
            _ = Syscall.dup2(nowhere, stream);
        _ = LinuxFile.Close(nowhere);
    }

    private static StartedProgram Launch(
        IReadOnlyList<string> arguments, string role, ReadOnlySpan<byte> input, IReadOnlyCollection<int> descriptors)
    {
        ProgramStart start = new()
        {
            Path = Environment.ProcessPath ?? "/proc/self/exe",
            Arguments = arguments,
            Variables = [(DaemonVariable, role), (Typed.Variable, Typed.Verb.ToString())],
            Input = input.IsEmpty ? ProgramStream.Nothing : ProgramStream.Pipe,
            Errors = ProgramStream.Pipe,
            Descriptors = descriptors,
        };
        int result;
        StartedProgram? child;
        using (InheritedFlusher.Begin())
            result = StartedProgram.TryStart(start, out child);
        if (child is null)
            throw new CommandException(ExitCode.System, $"the daemon cannot be started: {Errno.Text(-result)}");
        if (!input.IsEmpty)
        {
            // A process that has ended before it read says why.
            _ = child.WriteInput(input);
            child.EndInput();
        }

        return child;
    }

    /// <summary>The exit code of a start whose daemon ended with another one before it was ready.</summary>
    private static int ExitCodeOf(int daemon) => daemon switch
    {
        ExitCode.Success => ExitCode.MountFailed,
        < 0 => ExitCode.System,
        > 128 => ExitCode.Internal,
        _ => daemon,
    };
}
