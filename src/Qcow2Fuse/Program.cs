// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block;
using Qcow2Fuse.Commands;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;

namespace Qcow2Fuse;

/// <summary>The program <c>qcow2fuse</c>.</summary>
internal static class Program
{
    /// <summary>The number of SIGXFSZ, for which the runtime has no name.</summary>
    private const PosixSignal FileSizeLimit = (PosixSignal)25;

    /// <summary>Heaps of the C library that all threads share.</summary>
    private const int ArenasMax = 2;

    private static int Main(string[] arguments)
    {
        // Before any thread begins. Only a matter of address space: where it cannot be had, all works as well.
        _ = NativeHeap.TryLimitArenas(ArenasMax);

        // For "snapshot" the same letter means to delete.
        bool debug = arguments is not ["snapshot", ..] && arguments.Contains("-d", StringComparer.Ordinal);
        try
        {
            IReadOnlyList<string> normal = Personality.Normalise(CalledAs(), arguments, out bool isFake);
            // A write beyond the limit of file sizes is to fail as too large, and not to end the process.
            using PosixSignalRegistration sizeLimit =
                PosixSignalRegistration.Create(FileSizeLimit, context => context.Cancel = true);
            return CommandLine.Run(normal, isFake);
        }
        catch (CommandException exception)
        {
            Report.Error(exception.Message + TypeOf(exception.InnerException, debug), exception.Hint);
            return exception.ExitCode;
        }
        catch (BlockException exception)
        {
            Report.Error(exception.Message + TypeOf(exception, debug), exception.Hint);
            return ExitCode.Failure;
        }
        catch (OutOfMemoryException)
        {
            Report.Error("out of memory");
            return arguments is ["info" or "check" or "create" or "snapshot" or "bitmap" or "resize", ..]
                ? ExitCode.Failure : ExitCode.System;
        }
        catch (Exception exception)
        {
            Report.Error($"internal error: {exception.Message}{TypeOf(exception, debug)}");
            return ExitCode.Internal;
        }
    }

    private static string TypeOf(Exception? exception, bool debug) =>
        debug && exception is not null ? $" [{exception.GetType()}]" : "";

    /// <summary>
    /// argv[0] as the caller wrote it; the runtime would resolve the link that names the personality.
    /// </summary>
    private static string CalledAs()
    {
        try
        {
            string all = File.ReadAllText("/proc/self/cmdline");
            int end = all.IndexOf('\0', StringComparison.Ordinal);
            return end < 0 ? all : all[..end];
        }
        catch (IOException)
        {
            // Without /proc the personality cannot be told; the plain one needs no name.
            return Report.ProgramName;
        }
    }
}
