// SPDX-License-Identifier: MIT
using System.CommandLine;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Daemon;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Service;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Stacks;
using Qcow2Fuse.Start;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse mount</c>: shows an image as a raw file in a directory.</summary>
internal static class MountCommand
{
    /// <summary>Its name on the command line.</summary>
    public const string Verb = "mount";

    /// <summary>The verb with its options.</summary>
    /// <param name="arguments">The command line, for the process behind the mount.</param>
    /// <param name="isFake">Check everything, but do not mount.</param>
    public static Command Create(IReadOnlyList<string> arguments, bool isFake)
    {
        Option<bool> foreground = new("-f", "--foreground")
        { Description = "Stay in the foreground; Ctrl-C unmounts" };
        Option<bool> readOnly = new("-r", "--read-only") { Description = "The same as -o ro" };
        Option<bool> debug = new("-d", "--debug") { Description = "Log more, and stay in the foreground" };
        Option<bool> fileSystem = new("--fs")
        { Description = "Mount the file system inside the image (as root, through a loop device)" };
        Option<string[]> words = new("-o")
        {
            Description = "Mount options, separated by commas; each long option below without its dashes is one",
            HelpName = "NAME[=VALUE],...",
        };
        Argument<string?> source = new("SRC")
        { Description = "The image, or a directory of images", Arity = ArgumentArity.ZeroOrOne };
        Argument<string?> directory = new("DIR")
        { Description = "The mount point, a directory", Arity = ArgumentArity.ZeroOrOne };
        Command command = new(Verb, "Mount an image as a flat raw file")
            { foreground, readOnly, debug, fileSystem, words, source, directory };
        List<Action<ParseResult, OptionList>> listed = [];
        foreach (MountOption option in MountOptions.All.Where(static option => option.IsListed))
            listed.Add(AddLongForm(command, option));

        command.SetAction(parsed =>
        {
            OptionList options = new();
            foreach (string argument in parsed.GetValue(words) ?? [])
                options.AddWords(argument);
            if (parsed.GetValue(readOnly))
                options.AddWords("ro");
            foreach (Action<ParseResult, OptionList> addValues in listed)
                addValues(parsed, options);
            MountSettings Load() => SettingsLoader.Load(
                SettingsLoader.Files, options, parsed.GetValue(source), parsed.GetValue(directory));
            MountSettings settings = Load();

            // What is mounted is there whoever mounted it, and root alone may change its flags.
            if (settings.Remounts)
                return isFake ? ExitCode.Success : RemountCall.Run(settings);

            // He may have a settings file of his own, which the daemon finds.
            if (settings.OtherUser is { } user && OtherUser.Become(user))
                settings = Load();
            bool isInner = parsed.GetValue(fileSystem);
            if (!isInner && options.Entries.FirstOrDefault(static one => one.Option.IsOfFileSystem).Option is { } inner)
                throw CommandException.Usage($"option {inner.Name} is for the file system inside the image", "--fs");
            if (settings is { NoFail: true, Source: { } image } && IsMissing(image))
            {
                if (!parsed.GetValue(foreground) || !ServiceNotifier.IsPresent)
                    return ExitCode.Success;
                Report.Warning($"nofail has no effect in a service: {image} is missing, and nothing is served");
            }
            if (isInner && !isFake)
            {
                Typed.Verb = TypedVerb.FileSystem;
                return RunFileSystem(settings, options, parsed.GetValue(foreground) || parsed.GetValue(debug));
            }

            return Run(arguments, settings, parsed.GetValue(foreground), parsed.GetValue(debug), isFake);
        });
        return command;
    }

    /// <summary>Adds <c>--name</c> to the command; the result adds what a command line gave for it.</summary>
    private static Action<ParseResult, OptionList> AddLongForm(Command command, MountOption option)
    {
        if (option.IsFlag)
        {
            Option<bool> flag = new(option.LongName) { Description = option.Summary };
            command.Options.Add(flag);
            return (parsed, options) =>
            {
                if (parsed.GetValue(flag))
                    options.Add(option, option.Implied);
            };
        }

        Option<string[]> valued = new(option.LongName) { Description = option.Summary, HelpName = option.ValueName };
        command.Options.Add(valued);
        return (parsed, options) =>
        {
            foreach (string value in parsed.GetValue(valued) ?? [])
                options.Add(option, value);
        };
    }

    /// <summary>Whether there is nothing of a name; not where that cannot be seen.</summary>
    private static bool IsMissing(string path)
    {
        int descriptor = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (descriptor >= 0)
            _ = LinuxFile.Close(descriptor);
        return descriptor is -Errno.ENOENT or -Errno.ENOTDIR;
    }

    private static void RequirePlaces(MountSettings settings)
    {
        if (settings.Source is null)
            throw CommandException.Usage("the image is missing", "qcow2fuse mount SRC DIR");
        if (settings.Directory is null)
            throw CommandException.Usage("the mount point is missing", "qcow2fuse mount SRC DIR");
    }

    private static int RunFileSystem(MountSettings settings, OptionList options, bool stays)
    {
        RequirePlaces(settings);
        if (stays)
            throw CommandException.Usage("--fs does not stay in the foreground");
        return FileSystemMount.Run(settings, options.ToWords());
    }

    private static int Run(
        IReadOnlyList<string> arguments, MountSettings settings, bool foreground, bool debug, bool isFake)
    {
        RequirePlaces(settings);
        if (isFake)
            return ExitCode.Success;

        // Nobody may look at a mount that goes on after a restart before it is served.
        bool covers = !BackgroundStart.IsChild && !settings.MayCover && !settings.Restartable
            && IsFilled(settings.Directory!);

        // The first who looks is the one who warns.
        if (settings.Writeback && !BackgroundStart.IsChild)
            Report.Warning("writeback changes nothing: writes that the kernel collects are not safe");
        settings.Source = LoopSource.Resolve(settings.Source!, warns: !BackgroundStart.IsChild);
        try
        {
            bool stays = foreground || debug;
            if (stays && covers)
                WarnOfCovered(settings.Directory!);
            return stays || BackgroundStart.IsChild
                ? Serve(settings, debug)
                : Start(arguments, settings, covers);
        }
        catch (BlockException exception)
        {
            throw new CommandException(
                ExitCode.MountFailed, exception.Message, Advice.For(exception.Cause, Typed.Verb), exception);
        }
        catch (FuseMountException exception)
        {
            int exitCode = exception.Error is FuseMountError.AllowOtherRefused or FuseMountError.NotPermitted
                ? ExitCode.Usage
                : ExitCode.MountFailed;
            throw new CommandException(exitCode, exception.Message, Advice.For(exception), exception);
        }
    }

    /// <summary>Whether something lies in the mount point, which cannot be reached until it is unmounted.</summary>
    private static bool IsFilled(string directory)
    {
        if (MountPoint.Inspect(directory, OwnMount.Subtype).State != MountPointState.Free)
            return false;
        int fd = LinuxFile.Open(directory, OpenFlags.ReadOnly | OpenFlags.Directory | OpenFlags.CloseOnExec);
        if (fd < 0)
            return false;
        bool isFilled = LinuxDirectory.HasEntries(fd);
        _ = LinuxFile.Close(fd);
        return isFilled;
    }

    private static void WarnOfCovered(string directory) =>
        Report.Warning($"{directory}: is not empty; what is in it is covered until it is unmounted");

    /// <summary>The daemon finds on its standard input what a secret from there needs.</summary>
    private static int Start(IReadOnlyList<string> arguments, MountSettings settings, bool covers)
    {
        using SecretMemory? input = SecretReader.ReadInput(settings.Secrets);
        return BackgroundStart.Run(
            arguments, input is null ? [] : input.Span, NamedDescriptors.Of(settings),
            (status, id) =>
            {
                Confirm(settings.Source!, settings.Directory!, status, id);
                if (covers)
                    WarnOfCovered(settings.Directory!);
            });
    }

    private static int Serve(MountSettings settings, bool debug)
    {
        // A lock of the caller, or his file, is not to last as long as the mount.
        InheritedFiles.CloseOthers(NamedDescriptors.Of(settings));

        // What root read before is not the other user's.
        if (settings.OtherUser is not null)
            ProcessCalls.HideMemory();
        LogLevel least = debug ? LogLevel.Debug : LogLevel.Information;
        bool isChild = BackgroundStart.IsChild;
        if (isChild)
        {
            BackgroundStart.Tie();

            // Until it is ready, the new process speaks on the user's terminal, where only warnings are wanted.
            least = LogLevel.Warning;
        }

        // Without LoggerFactory.Create, which builds a container of services for its two settings.
        ILoggerProvider[] logs = isChild
            ? [new StderrLogger(least), new SyslogLogger(LogLevel.Information)]
            : [new StderrLogger(least)];
        using LoggerFactory logging = new(logs, new LoggerFilterOptions { MinLevel = LogLevel.Debug });
        ILogger logger = logging.CreateLogger(Report.ProgramName);
        if (!isChild)
            return MountHost.Run(settings, logger, static _ => { });
        bool isReady = false;
        try
        {
            return MountHost.Run(settings, logger, status =>
            {
                BackgroundStart.ReportReady(status);
                isReady = true;
            });
        }
        catch (Exception exception) when (isReady)
        {
            // Whoever started the daemon has gone, and with him standard error.
            HostLog.Died(logger, settings.Source!, exception.Message);
            throw;
        }
    }

    /// <summary>
    /// In the process that the user started: looks at the file, which the daemon must not do to its own mount, and
    /// tells a user at a terminal.
    /// </summary>
    /// <param name="source">The image, as typed.</param>
    /// <param name="directory">The mount point, as typed.</param>
    /// <param name="status">What the daemon shows.</param>
    /// <param name="processId">The daemon.</param>
    /// <exception cref="CommandException">The file does not answer; the mount is taken away again.</exception>
    private static void Confirm(string source, string directory, string status, int processId)
    {
        // Names that lead there may be exchanged by whoever owns the directories above: the mount is the daemon's.
        int handed = HandedMount.DescriptorOf(directory);
        MountEntry? mount = handed >= 0
            ? HandedMount.FindEntry(handed, path: null) : DaemonTable.MountOf(processId, directory);
        if (handed >= 0)
            directory = mount?.MountPoint ?? directory;
        string name = LinuxPath.IsDirectory(source)
            ? RootDirectory.HiddenName + "/metrics"
            : RawFileName.For(LinuxPath.Full(source));
        bool isHandedBlindly = handed >= 0 && mount is null;
        if (!isHandedBlindly && !Answers(mount, name))
        {
            if (mount is not null)
                FuseMount.Unmount(mount, lazy: true);
            throw new CommandException(
                ExitCode.MountFailed, $"{Path.Combine(directory, name)}: does not answer");
        }

        if (LinuxStream.IsTerminal(1))
            StandardOutput.WriteLine($"mounted {status} on {directory}  [pid {processId}]");
    }

    /// <summary>Whether there is a file of this name in a mount, or the mount lies on a file itself.</summary>
    private static bool Answers(MountEntry? mount, string name)
    {
        int root = mount is null ? -Errno.EINVAL : MountRoot.Open(mount);
        if (root < 0)
            return false;
        bool answers = LinuxFile.Status(root, out FileStatus status) == 0
            && (status.Type != FileType.Directory
                || (LinuxFile.Status(root, name, followsLink: false, out status) == 0
                    && status.Type != FileType.Directory));
        _ = LinuxFile.Close(root);
        return answers;
    }
}
