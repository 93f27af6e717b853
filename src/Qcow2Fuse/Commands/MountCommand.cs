// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse mount</c>: shows an image as a raw file in a directory.</summary>
internal static class MountCommand
{
    /// <summary>The verb with its options.</summary>
    /// <param name="isFake">Check everything, but do not mount.</param>
    public static Command Create(bool isFake)
    {
        Option<bool> foreground = new("-f", "--foreground")
            { Description = "Stay in the foreground; Ctrl-C unmounts" };
        Option<bool> readOnly = new("-r", "--read-only") { Description = "The same as -o ro" };
        Option<bool> debug = new("-d", "--debug") { Description = "Log more, and stay in the foreground" };
        Option<string[]> words = new("-o")
        {
            Description = "Mount options, separated by commas; each long option below without its dashes is one",
            HelpName = "NAME[=VALUE],...",
        };
        Argument<string?> source = new("SRC")
            { Description = "The image", Arity = ArgumentArity.ZeroOrOne };
        Argument<string?> directory = new("DIR")
            { Description = "The mount point, a directory", Arity = ArgumentArity.ZeroOrOne };
        Command command = new("mount", "Mount an image as a flat raw file")
            { foreground, readOnly, debug, words, source, directory };
        List<Func<ParseResult, IEnumerable<(MountOption, string)>>> listed = [];
        foreach (MountOption option in MountOptions.All.Where(static option => option.IsListed))
            listed.Add(AddLongForm(command, option));

        command.SetAction(parsed =>
        {
            OptionList options = new();
            foreach (string argument in parsed.GetValue(words) ?? [])
                options.AddWords(argument);
            if (parsed.GetValue(readOnly))
                options.AddWords("ro");
            foreach ((MountOption option, string value) in listed.SelectMany(values => values(parsed)))
                options.Add(option, value);
            MountSettings settings = SettingsLoader.Load(
                SettingsLoader.Files, options, parsed.GetValue(source), parsed.GetValue(directory));
            return Run(settings, parsed.GetValue(foreground), parsed.GetValue(debug), isFake);
        });
        return command;
    }

    /// <summary>Adds <c>--name</c> to the command; the result tells what a command line gave for it.</summary>
    private static Func<ParseResult, IEnumerable<(MountOption, string)>> AddLongForm(
        Command command, MountOption option)
    {
        if (option.IsFlag)
        {
            Option<bool> flag = new(option.LongName) { Description = option.Summary };
            command.Options.Add(flag);
            return parsed => parsed.GetValue(flag) ? [(option, option.Implied)] : [];
        }

        Option<string[]> valued = new(option.LongName) { Description = option.Summary, HelpName = option.ValueName };
        command.Options.Add(valued);
        return parsed => (parsed.GetValue(valued) ?? []).Select(value => (option, value));
    }

    private static int Run(MountSettings settings, bool foreground, bool debug, bool isFake)
    {
        if (settings.Source is null)
            throw CommandException.Usage("the image is missing", "qcow2fuse mount SRC DIR");
        if (settings.Directory is null)
            throw CommandException.Usage("the mount point is missing", "qcow2fuse mount SRC DIR");
        if (isFake)
            return ExitCode.Success;
        _ = foreground;
        _ = debug;
        return ExitCode.Success;
    }
}
