// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse run</c>: mounts an image for as long as a command runs. What it leaves behind is nothing, and the
/// command's exit code.
/// </summary>
internal static class RunCommand
{
    /// <summary>The name of the argument after which nothing is an option of this program.</summary>
    public const string CommandArgument = "CMD";

    /// <summary>The variable with the path of the raw file.</summary>
    private const string DiskVariable = "QCOW2FUSE_DISK";

    /// <summary>With a partition's number behind it, the variable with the path of that partition's file.</summary>
    private const string PartitionVariable = "QCOW2FUSE_P";

    // As env(1), timeout(1) and others that run a command.
    private const int CannotRun = 126;
    private const int NotFound = 127;

    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        StackOptions options = new();
        Argument<string> image = new("IMAGE") { Description = "The image" };
        Argument<string[]> words = new(CommandArgument)
        { Description = "What to run, and its arguments", Arity = ArgumentArity.OneOrMore };
        Command command = new("run", "Mount an image while a command runs: run IMAGE -- CMD...") { image, words };
        options.AddTo(command);
        command.SetAction(parsed =>
            Run(parsed.GetRequiredValue(image), options.WordsOf(parsed), parsed.GetRequiredValue(words)));
        return command;
    }

    private static int Run(string image, IReadOnlyList<string> options, string[] words)
    {
        RelayedSignals signals = new();
        using PosixSignalRegistration terminate = signals.Relay(PosixSignal.SIGTERM, ProcessCalls.Terminate);
        using PosixSignalRegistration hangup = signals.Relay(PosixSignal.SIGHUP, ProcessCalls.Hangup);

        // A terminal sends these to the command as well, and how it ends is its affair.
        using PosixSignalRegistration interrupt = signals.Relay(PosixSignal.SIGINT, signal: 0);
        using PosixSignalRegistration quit = signals.Relay(PosixSignal.SIGQUIT, signal: 0);
        using PrivateMount? mount = PrivateMount.Start("run", image, options, tied: true, out _);
        if (mount is null)
            return ExitCode.RunFailed;
        try
        {
            return Execute(mount, words, signals);
        }
        finally
        {
            mount.End(ExitCode.RunFailed);
        }
    }

    private static int Execute(PrivateMount mount, string[] words, RelayedSignals signals)
    {
        ProgramStart start = new()
        {
            Path = words[0],
            Arguments = words[1..],
            Variables =
            [
                (DiskVariable, mount.RawFile),
                .. mount.Partitions().Select(static partition =>
                    (PartitionVariable + partition.Number, (string?)partition.File)),
            ],
            Input = ProgramStream.Inherited,
            Output = ProgramStream.Inherited,
            Errors = ProgramStream.Inherited,
            InheritsAll = true,
            SearchesPath = true,
        };
        int result = signals.TryStart(start, out bool isOver);
        if (isOver)
            return 128 + ProcessCalls.Terminate;
        if (result == 0)
            return signals.WaitForEnd();
        Report.Error($"{words[0]}: {Errno.Text(-result)}");
        return result == -Errno.ENOENT ? NotFound : CannotRun;
    }

    /// <summary>Signals that are meant for the command, and arrive here.</summary>
    private sealed class RelayedSignals
    {
        private readonly object _gate = new();
        private StartedProgram? _process;
        private bool _isOver;

        /// <summary>Passes a signal on, whose number is 0 where it is only to be survived.</summary>
        public PosixSignalRegistration Relay(PosixSignal name, int signal) => PosixSignalRegistration.Create(
            name,
            context =>
            {
                context.Cancel = true;
                lock (_gate)
                {
                    _isOver |= _process is null && signal != 0;
                    if (_process is { HasBeenWaitedFor: false } && signal != 0)
                        _ = ProcessCalls.Signal(_process.Id, signal);
                }
            });

        /// <summary>Starts the command, if no signal to end came before: 0, or −errno.</summary>
        public int TryStart(ProgramStart start, out bool isOver)
        {
            lock (_gate)
            {
                isOver = _isOver;
                return isOver ? 0 : StartedProgram.TryStart(start, out _process);
            }
        }

        /// <summary>
        /// The exit code of the command. A signal that comes meanwhile finds the process, and no other of its number.
        /// </summary>
        public int WaitForEnd()
        {
            _ = _process!.WaitUntilOver(Timeout.InfiniteTimeSpan);
            lock (_gate)
                return _process.Wait();
        }
    }
}
