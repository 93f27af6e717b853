// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
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
    /// <summary>The word at the beginning of the line that tells that the mount answers.</summary>
    public const char ReadyMark = '\x06';

    /// <summary>Variables of a daemon that is started before the command line was looked at.</summary>
    public static (string Name, string Value)[] EarlyVariables => Variables(Early);

    private const string DaemonVariable = "QCOW2FUSE_DAEMON";
    private const string Plain = "1";
    private const string Early = "early";
    private const string Private = "private";
    private const string Tied = "tied:";

    // The daemon's own limit (NativeHeap) comes after the runtime's first threads.
    private const string ArenasVariable = "MALLOC_ARENA_MAX";
    private const string Arenas = "2";

    // The runtime's sockets and pipes for debuggers, in /tmp, stay behind when the daemon is killed.
    private const string DiagnosticsVariable = "DOTNET_EnableDiagnostics";

    /// <summary>Whether this process is the one that was started.</summary>
    public static bool IsChild => Role is { Length: > 0 };

    /// <summary>Whether the mount point was made for this mount alone and goes with it.</summary>
    public static bool IsPrivate => IsChild && Role is not (Plain or Early);

    /// <summary>Whether it was started by <see cref="EarlyStart"/>.</summary>
    public static bool IsEarly => Role is Early;

    /// <summary>
    /// Whether this process gets SIGTERM when the one that started it ends: once for each thread there that it passes
    /// to on the way, all within a moment.
    /// </summary>
    public static bool IsTied => Role is { } role && role.StartsWith(Tied, StringComparison.Ordinal);

    private static string? Role => Environment.GetEnvironmentVariable(DaemonVariable);

    /// <summary>Runs the same command line again and waits until it is ready or gives up.</summary>
    /// <param name="arguments">The arguments, a verb first.</param>
    /// <param name="feed">Writes what the new process finds on its standard input.</param>
    /// <param name="ready">Called with what the daemon says and its process id once the mount answers.</param>
    /// <returns>The exit code of the start.</returns>
    public static int Run(IReadOnlyList<string> arguments, Action<Stream> feed, Action<string, int> ready)
    {
        using Process child = Launch(arguments, Plain, feed);
        if (WaitForReady(child) is not { } status)
            return ExitCodeOf(child);
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
    public static Process? StartPrivate(IReadOnlyList<string> arguments, bool tied, out int exitCode)
    {
        Process child = Launch(
            arguments, tied ? string.Create(CultureInfo.InvariantCulture, $"{Tied}{Environment.ProcessId}") : Private,
            static _ => { });
        exitCode = ExitCode.Success;
        if (WaitForReady(child) is not null)
            return child;
        exitCode = ExitCodeOf(child);
        child.Dispose();
        return null;
    }

    private static Process Launch(IReadOnlyList<string> arguments, string role, Action<Stream> feed)
    {
        ProcessStartInfo start = new(Environment.ProcessPath ?? "/proc/self/exe", arguments)
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach ((string name, string value) in Variables(role))
            start.Environment[name] = value;
        Process? child;
        using (InheritedFlusher.Begin())
            child = Process.Start(start);
        if (child is null)
            throw new CommandException(ExitCode.System, "the daemon cannot be started");
        Feed(child, feed);
        return child;
    }

    private static (string Name, string Value)[] Variables(string role)
    {
        (string Name, string Value)[] always = [(DaemonVariable, role), (ArenasVariable, Arenas)];
        bool isChosen = Environment.GetEnvironmentVariable(DiagnosticsVariable) is not null;
        return isChosen ? always : [.. always, (DiagnosticsVariable, "0")];
    }

    /// <summary>Passes on what the daemon says; null if it ended without the word that it is ready.</summary>
    private static string? WaitForReady(Process child)
    {
        while (child.StandardError.ReadLine() is { } line)
        {
            if (line.StartsWith(ReadyMark))
                return line[1..];
            StandardError.WriteLine(line);
        }

        return null;
    }

    private static int ExitCodeOf(Process child)
    {
        child.WaitForExit();
        return ExitCodeOf(child.ExitCode);
    }

    /// <summary>The exit code of a start whose daemon ended with another one before it was ready.</summary>
    public static int ExitCodeOf(int daemon) => daemon switch
    {
        ExitCode.Success => ExitCode.MountFailed,
        < 0 => ExitCode.System,
        > 128 => ExitCode.Internal,
        _ => daemon,
    };

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
    /// <exception cref="IOException">Whoever the process is tied to has gone.</exception>
    public static void Detach()
    {
        if (IsTied && ProcessCalls.EndWithParent(int.Parse(Role![Tied.Length..], CultureInfo.InvariantCulture)) != 0)
            throw new IOException("the starting process has gone");

        // Fails only where the process leads a group already, which means that it is detached.
        _ = Syscall.setsid();
    }

    /// <summary>In the new process: says that the mount answers, and lets go of the standard streams.</summary>
    /// <param name="status">What the mount shows.</param>
    /// <param name="source">The image, as typed.</param>
    /// <param name="directory">The mount point, as typed.</param>
    /// <exception cref="IOException">Whoever waited has gone.</exception>
    public static void ReportReady(string status, string source, string directory)
    {
        string word = IsEarly ? EarlyStart.ReadyWord(status, source, directory) : status;
        if (!StandardError.TryWriteLine(ReadyMark + word))
            throw new IOException("the starting process has gone");
        int nowhere = LinuxFile.Open("/dev/null", Linux.OpenFlags.ReadWrite | Linux.OpenFlags.CloseOnExec);
        if (nowhere < 0)
            return;
        for (int stream = 0; stream <= 2; stream++)
            _ = Syscall.dup2(nowhere, stream);
        _ = LinuxFile.Close(nowhere);
    }
}
