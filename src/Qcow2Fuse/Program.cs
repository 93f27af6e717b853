// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Commands;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;

namespace Qcow2Fuse;

/// <summary>The program <c>qcow2fuse</c>.</summary>
internal static class Program
{
    private const int PathBytesMax = 4096;

    /// <summary>Heaps of the C library that all threads share.</summary>
    private const int ArenasMax = 2;

    private static int Main(string[] arguments)
    {
        arguments = CommandWords.Restore(arguments);

        // Before any thread begins. Only a matter of address space: where it cannot be had, all works as well.
        _ = NativeHeap.TryLimitArenas(ArenasMax);

        // For "snapshot" the same letter means to delete.
        bool debug = arguments is not ["snapshot", ..] && arguments.Contains("-d", StringComparer.Ordinal);
        try
        {
            string calledAs = CalledAs();
            IReadOnlyList<string> normal = Personality.Normalise(calledAs, arguments, out bool isFake);
            Typed.Take(normal, Personality.IsHelper(calledAs));
            // A write beyond the limit of file sizes is to fail as too large, and not to end the process.
            ProcessCalls.IgnoreFileSizeLimit();
            return StandardOutput.Finish(CommandLine.Run(normal, isFake));
        }
        catch (CommandException exception)
        {
            Report.Error(exception.Message + TypeOf(exception.InnerException, debug), exception.Hint);
            return ExitCodeOf(exception.ExitCode, arguments);
        }
        catch (BlockException exception)
        {
            Report.Error(exception.Message + TypeOf(exception, debug), Advice.For(exception.Cause, Typed.Verb));
            return ExitCodeOf(ExitCode.Of(exception), arguments);
        }
        catch (FuseMountException exception)
        {
            Report.Error(exception.Message + TypeOf(exception, debug), Advice.For(exception));
            return ExitCodeOf(ExitCode.Failure, arguments);
        }
        catch (OutOfMemoryException)
        {
            Report.Error("out of memory");
            return ExitCodeOf(
                arguments is ["info" or "check" or "create" or "snapshot" or "bitmap" or "resize", ..]
                    ? ExitCode.Failure : ExitCode.System,
                arguments);
        }
        catch (Exception exception)
        {
            Report.Error($"internal error: {exception.Message}{TypeOf(exception, debug)}");
            return ExitCodeOf(ExitCode.Internal, arguments);
        }
    }

    /// <summary>Below 125 the exit code of <c>run</c> is that of its command.</summary>
    private static int ExitCodeOf(int failure, string[] arguments) =>
        arguments is ["run", ..] ? ExitCode.RunFailed : failure;

    private static string TypeOf(Exception? exception, bool debug) =>
        debug && exception is not null ? $" [{exception.GetType()}]" : "";

    /// <summary>
    /// argv[0] as the caller wrote it; the runtime would resolve the link that names the personality.
    /// </summary>
    private static string CalledAs()
    {
        int fd = LinuxFile.Open("/proc/self/cmdline", OpenFlags.ReadOnly | OpenFlags.CloseOnExec);

        // Without /proc the personality cannot be told; the plain one needs no name.
        if (fd < 0)
            return Report.ProgramName;
        Span<byte> name = stackalloc byte[PathBytesMax];
        int length = LinuxStream.Read(fd, name);
        _ = LinuxFile.Close(fd);
        int end = length > 0 ? name[..length].IndexOf((byte)0) : -1;
        return end < 0 ? Report.ProgramName : ByteText.Decode(name[..end]);
    }
}
