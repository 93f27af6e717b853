// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using System.IO.Pipes;
using Microsoft.Win32.SafeHandles;
using Mono.Unix.Native;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// Starts the daemon behind a mount. A .NET process cannot fork, so the program runs itself again; the number of a
/// pipe travels in the environment, and through the pipe comes the word that the mount answers.
/// </summary>
/// <remarks>
/// The runtime keeps duplicates of the standard streams it was started with, so a daemon that had the caller's would
/// keep a caller waiting who reads them to their end. The new process therefore gets pipes; what it says on standard
/// error until it is ready is passed on by the process that waits for it.
/// </remarks>
internal static class BackgroundStart
{
    private const string ReadyVariable = "QCOW2FUSE_READY_FD";

    /// <summary>The line on standard error after which the daemon says nothing there any more.</summary>
    private const string EndOfMessages = "\u0004";

    /// <summary>Whether this process is the one that was started.</summary>
    public static bool IsChild => ReadyDescriptor is not null;

    private static int? ReadyDescriptor =>
        int.TryParse(
            Environment.GetEnvironmentVariable(ReadyVariable),
            NumberStyles.None,
            CultureInfo.InvariantCulture,
            out int descriptor)
            ? descriptor
            : null;

    /// <summary>Runs the same command line again and waits until it is ready or gives up.</summary>
    /// <param name="arguments">The arguments, a verb first.</param>
    /// <param name="ready">Called with what the daemon says and its process id once the mount answers.</param>
    /// <returns>The exit code of the start.</returns>
    public static int Run(IReadOnlyList<string> arguments, Action<string, int> ready)
    {
        using AnonymousPipeServerStream pipe = new(PipeDirection.In, HandleInheritability.Inheritable);
        ProcessStartInfo start = new(Environment.ProcessPath ?? "/proc/self/exe", arguments)
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment[ReadyVariable] = pipe.GetClientHandleAsString();
        using Process child = Process.Start(start)
            ?? throw new CommandException(ExitCode.System, "the daemon cannot be started");
        pipe.DisposeLocalCopyOfClientHandle();
        child.StandardInput.Close();
        while (child.StandardError.ReadLine() is { } message && message != EndOfMessages)
            Console.Error.WriteLine(message);
        using StreamReader reader = new(pipe);
        string? status = reader.ReadLine();
        if (status is not null)
        {
            ready(status, child.Id);
            return ExitCode.Success;
        }

        // The end without a word: it has said why on standard error.
        child.WaitForExit();
        return child.ExitCode switch
        {
            ExitCode.Success => ExitCode.MountFailed,
            > 128 => ExitCode.Internal,
            _ => child.ExitCode,
        };
    }

    /// <summary>
    /// In the new process: leaves the caller's session, so that neither Ctrl-C nor a hangup there reaches it.
    /// </summary>
    public static void Detach()
    {
        // Fails only where the process leads a group already, which means that it is detached.
        _ = Syscall.setsid();
    }

    /// <summary>In the new process: says that the mount answers, and leaves the caller's terminal.</summary>
    public static void ReportReady(string status)
    {
        int descriptor = ReadyDescriptor ?? throw new InvalidOperationException("nobody waits for this process");
        Environment.SetEnvironmentVariable(ReadyVariable, null);
        Console.Error.WriteLine(EndOfMessages);
        Console.Error.Flush();
        int nowhere = LinuxFile.Open("/dev/null", Linux.OpenFlags.ReadWrite);
        if (nowhere >= 0)
        {
            for (int stream = 0; stream <= 2; stream++)
                _ = Syscall.dup2(nowhere, stream);
            if (nowhere > 2)
                _ = LinuxFile.Close(nowhere);
        }

        using SafeFileHandle handle = new(descriptor, ownsHandle: true);
        using FileStream pipe = new(handle, FileAccess.Write, bufferSize: 0);
        using StreamWriter writer = new(pipe);
        writer.WriteLine(status);
    }
}
