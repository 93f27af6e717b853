// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary>
/// Turns the ways other programs call this one into the form <c>qcow2fuse VERB ...</c>: the mount helper of mount(8),
/// and the bare form <c>qcow2fuse SRC DIR -o ...</c> that mount.fuse3(8) uses.
/// </summary>
internal static class Personality
{
    private static readonly string[] Verbs =
    [
        MountCommand.Verb, "umount", "unmount", "create", "info", "resize", "check", "snapshot", "bitmap", "run",
        "attach", "detach", "list",
    ];

    private static readonly string[] FirstWords = [.. Verbs, "-h", "--help", "-?", "-V", "--version"];

    /// <summary>The arguments with a verb in front.</summary>
    /// <param name="calledAs">argv[0].</param>
    /// <param name="arguments">The rest of argv.</param>
    /// <param name="isFake">Whether mount(8) asks to do everything but the mount (<c>-f</c> of a helper).</param>
    /// <exception cref="CommandException">A flag no mount helper has.</exception>
    public static IReadOnlyList<string> Normalise(string calledAs, IReadOnlyList<string> arguments, out bool isFake)
    {
        isFake = false;
        if (IsHelper(calledAs))
            return FromHelper(arguments, out isFake);
        if (arguments.Count == 0)
            return ["--help"];
        string first = arguments[0];
        if (first is "help" && arguments.Count <= 2)
            return ForHelp(arguments.Count > 1 ? arguments[1] : null);
        if (first is "version" && arguments.Count == 1)
            return ["--version"];
        if (first is "help" or "version" && !LinuxPath.Exists(first))
        {
            throw first is "help"
                ? CommandException.Usage("help takes one command at most", $"{Report.ProgramName} help COMMAND")
                : CommandException.Usage("version takes no arguments", $"{Report.ProgramName} version");
        }

        if (FirstWords.Contains(first, StringComparer.Ordinal))
            return arguments;

        // What looks like a path is one, whether it is there or not.
        bool isPath = first.AsSpan().IndexOfAny('/', '.') >= 0 || LinuxPath.Exists(first);
        if (!isPath && first is not ['-', ..])
            throw UnknownCommand(first);
        return [MountCommand.Verb, .. arguments];
    }

    private static string[] ForHelp(string? verb)
    {
        if (verb is null)
            return ["--help"];
        return Verbs.Contains(verb, StringComparer.Ordinal) ? [verb, "--help"] : throw UnknownCommand(verb);
    }

    private static CommandException UnknownCommand(string word) => CommandException.Usage(
        $"{word}: is neither a command nor a file{Suggestion.For(word, [.. Verbs, "help", "version"])}",
        $"{Report.ProgramName} help lists the commands");

    /// <summary>Whether mount(8) calls.</summary>
    /// <param name="calledAs">argv[0].</param>
    public static bool IsHelper(string calledAs) =>
        Path.GetFileName(calledAs) is "mount.qcow2fuse" or "mount.fuse.qcow2fuse";

    /// <summary>
    /// <c>mount.qcow2fuse SRC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]</c>, in any order; see
    /// EXTERNAL HELPERS in mount(8). There <c>-f</c> means fake, <c>-s</c> to tolerate unknown options, and <c>-n</c>
    /// not to write a table that no longer exists.
    /// </summary>
    private static List<string> FromHelper(IReadOnlyList<string> arguments, out bool isFake)
    {
        isFake = false;
        bool isSloppy = false;
        List<string> names = [];
        List<string> options = [];
        for (int i = 0; i < arguments.Count; i++)
        {
            string argument = arguments[i];
            if (argument is "--")
            {
                names.AddRange(arguments.Skip(i + 1));
                break;
            }

            if (argument is "-h" or "--help" or "-V" or "--version")
                return [argument];
            if (argument is "-o" or "-N" or "-t")
            {
                if (++i == arguments.Count)
                    throw CommandException.Usage($"{argument} needs a value");
                if (argument is "-o")
                    options.AddRange(["-o", arguments[i]]);
                continue;
            }

            if (argument is "--ro" or "-r")
                options.AddRange(["-o", "ro"]);
            else if (argument is "-w" or "--rw")
                options.AddRange(["-o", "rw"]);
            else if (argument.Length > 1 && argument[0] == '-')
            {
                RefuseUnknownFlags(argument);
                isFake |= argument.Contains('f', StringComparison.Ordinal);
                isSloppy |= argument.Contains('s', StringComparison.Ordinal);
            }
            else
                names.Add(argument);
        }

        IEnumerable<string> words = isSloppy
            ? options.Select(static one => one is "-o" ? one : OptionList.WithoutUnknown(one)) : options;
        return [MountCommand.Verb, .. words, "--", .. names];
    }

    private static void RefuseUnknownFlags(string argument)
    {
        foreach (char flag in argument.AsSpan(1))
        {
            if (flag is not ('s' or 'f' or 'n' or 'v'))
                throw CommandException.Usage($"unknown flag {argument} for a mount helper");
        }
    }
}
