// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux;
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
    private const int OwnFailure = 125;
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
            return OwnFailure;
        int exitCode;
        bool isWritten = false;
        try
        {
            exitCode = Execute(mount, words, signals);
        }
        finally
        {
            isWritten = mount.End();
        }

        if (isWritten)
            return exitCode;
        Report.Error($"{image}: the last flush failed, written data may be lost");
        return OwnFailure;
    }

    private static int Execute(PrivateMount mount, string[] words, RelayedSignals signals)
    {
        ProcessStartInfo start = new(words[0], words[1..]) { UseShellExecute = false };
        start.Environment[DiskVariable] = mount.RawFile;
        foreach ((string number, string file) in mount.Partitions())
            start.Environment[PartitionVariable + number] = file;
        try
        {
            // Not disposed: a signal may still ask whether it has ended.
            Process? process = signals.Start(start);
            if (process is null)
                return 128 + ProcessCalls.Terminate;
            process.WaitForExit();
            return process.ExitCode;
        }
        catch (Win32Exception exception)
        {
            Report.Error($"{words[0]}: {Errno.Text(exception.NativeErrorCode)}");
            return exception.NativeErrorCode == Errno.ENOENT ? NotFound : CannotRun;
        }
    }

    /// <summary>Signals that are meant for the command, and arrive here.</summary>
    private sealed class RelayedSignals
    {
        private readonly object _gate = new();
        private Process? _process;
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
                    if (_process is { HasExited: false } && signal != 0)
                        _ = ProcessCalls.Signal(_process.Id, signal);
                }
            });

        /// <summary>Starts the command; null if a signal to end came before.</summary>
        public Process? Start(ProcessStartInfo start)
        {
            lock (_gate)
                return _isOver ? null : _process = Process.Start(start);
        }
    }
}
