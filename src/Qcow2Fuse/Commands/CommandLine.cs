// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Parsing;
using System.Runtime.CompilerServices;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Commands;

/// <summary>The verbs, and how a command line becomes a call of one of them.</summary>
internal static class CommandLine
{
    private const string UnknownOption = "unknown option";
    private const int HelpColumnsMin = 60;

    /// <summary>Runs a command line that <see cref="Personality"/> has put into the form with a verb.</summary>
    /// <returns>The exit code.</returns>
    /// <exception cref="CommandException">It cannot be understood, or the command failed.</exception>
    public static int Run(IReadOnlyList<string> arguments, bool isFake)
    {
        if (arguments is ["-V" or "--version", ..])
        {
            StandardOutput.WriteLine($"{Report.ProgramName} {Version} ({Form})");
            return ExitCode.Success;
        }

        // A plain command: a root command is named after argv[0] less its extension, a verb for mount.qcow2fuse.
        Command root = new(Report.ProgramName, "Mounts a qcow2 image as a flat raw file, read and write.\n\n"
            + "qcow2fuse SRC DIR [-o OPTIONS] is short for qcow2fuse mount SRC DIR [-o OPTIONS].");

        // A command is made in a moment, and all of them take longer than what some of them do.
        string first = arguments.Count > 0 ? arguments[0] : "";
        (string Verb, Func<Command> Create)[] verbs = Verbs(arguments, isFake);
        bool isVerb = verbs.Any(verb => string.Equals(verb.Verb, first, StringComparison.Ordinal));
        foreach ((string verb, Func<Command> create) in verbs)
        {
            if (!isVerb || string.Equals(verb, first, StringComparison.Ordinal))
                root.Add(create());
        }

        // Their texts are resources, which take longer to find than most commands take.
        if (!isVerb || arguments.Any(AsksForHelp))
        {
            HelpOption help = new();

            // By itself it asks the console, which writes to the terminal before it answers.
            if (help.Action is HelpAction action)
                action.MaxWidth = HelpColumns;
            root.Add(help);
            root.Add(new VersionOption("--version", "-V"));
        }

        // Behind "--" all words are names, whatever they begin with.
        HashSet<string> words = new(arguments.TakeWhile(static word => word is not "--"), StringComparer.Ordinal);
        foreach (Argument argument in root.Subcommands.SelectMany(static command => command.Arguments))
        {
            if (argument.Name is not RunCommand.CommandArgument)
                argument.Validators.Add(result => RefuseDash(result, words));
        }

        // "@file" stands for a file called so, not for a file with more arguments.
        ParserConfiguration configuration = new() { ResponseFileTokenReplacer = null };
        ParseResult result = root.Parse(arguments, configuration);
        if (result.Errors.Count > 0)
        {
            throw CommandException.Usage(
                MessageOf(result),
                $"{Report.ProgramName} {NameOf(result)}--help explains the usage");
        }

        using TextWriter output = StandardOutput.OpenBuffered();
        return result.Invoke(new InvocationConfiguration
        {
            EnableDefaultExceptionHandler = false,
            ProcessTerminationTimeout = null,
            Output = output,
        });
    }

    /// <summary>The verbs in the order of the help, each with what makes its command.</summary>
    private static (string Verb, Func<Command> Create)[] Verbs(IReadOnlyList<string> arguments, bool isFake) =>
    [
        (MountCommand.Verb, () => MountCommand.Create(arguments, isFake)),
        ("umount", UmountCommand.Create),
        ("create", CreateCommand.Create),
        ("info", InfoCommand.Create),
        ("resize", ResizeCommand.Create),
        ("bitmap", BitmapCommand.Create),
        ("check", CheckCommand.Create),
        ("snapshot", SnapshotCommand.Create),
        ("run", RunCommand.Create),
        ("attach", AttachCommand.Create),
        ("detach", DetachCommand.Create),
        ("list", ListCommand.Create),
    ];

    /// <summary>Whether a word can be, or hold, one of <c>-h -? --help --version -V /h /?</c>.</summary>
    private static bool AsksForHelp(string word) =>
        word.StartsWith("--help", StringComparison.Ordinal) || word.StartsWith("--version", StringComparison.Ordinal)
        || word is "/h" or "/?" || (word is ['-', not '-', ..] && word.AsSpan().IndexOfAny('h', '?', 'V') > 0);

    /// <summary>Where lines of the help are broken: nowhere for what is not a terminal.</summary>
    private static int HelpColumns => LinuxStream.TerminalColumns(StandardOutput.Descriptor) switch
    {
        >= HelpColumnsMin and int columns => columns,
        _ => LinuxStream.IsTerminal(StandardOutput.Descriptor) ? HelpColumnsMin : int.MaxValue,
    };

    /// <summary>How the program was compiled; the other form is for machines where this one cannot be linked.</summary>
    private static string Form => RuntimeFeature.IsDynamicCodeSupported ? "ReadyToRun" : "native";

    private static string Version => typeof(CommandLine).Assembly.GetName().Version!.ToString(fieldCount: 3);

    /// <summary>
    /// The parser takes an option it does not know for an argument; nobody means that. No option begins with a digit:
    /// that is a number below zero.
    /// </summary>
    private static void RefuseDash(ArgumentResult result, HashSet<string> words)
    {
        string? option = result.Tokens.Select(static token => token.Value).FirstOrDefault(value =>
            value.Length > 1 && value[0] == '-' && !char.IsAsciiDigit(value[1]) && words.Contains(value));
        if (option is null)
            return;
        string name = option.Split('=')[0];
        IEnumerable<string> known = (result.Parent as CommandResult)?.Command.Options
            .SelectMany(static one => (IEnumerable<string>)[one.Name, .. one.Aliases]) ?? [];
        string meant = Suggestion.For(name, known.Where(static one => one.StartsWith("--", StringComparison.Ordinal)));
        result.AddError(UnknownOption + $" {option}" + (meant.Length > 0
            ? meant : $" (a file of that name is written ./{option})"));
    }

    /// <summary>Of several complaints, the one about an unknown option tells most.</summary>
    private static string MessageOf(ParseResult result)
    {
        IEnumerable<string> messages = result.Errors.Select(static error => error.Message.TrimEnd('.'));
        return messages.FirstOrDefault(static text => text.StartsWith(UnknownOption, StringComparison.Ordinal))
            ?? messages.First();
    }

    private static string NameOf(ParseResult result)
    {
        Command command = result.CommandResult.Command;
        return command.Parents.Any() ? command.Name + " " : "";
    }
}
