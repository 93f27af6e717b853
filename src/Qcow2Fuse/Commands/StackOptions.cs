// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary>
/// The mount options of commands that mount an image for a purpose of their own: <c>-r</c> and <c>-o</c>.
/// </summary>
internal sealed class StackOptions
{
    private readonly Option<bool> _readOnly = new("-r", "--read-only") { Description = "The same as -o ro" };

    private readonly Option<string[]> _words = new("-o")
    { Description = "Mount options, separated by commas, as for mount", HelpName = "NAME[=VALUE],..." };

    /// <summary>Adds them to a command.</summary>
    public void AddTo(Command command)
    {
        command.Options.Add(_readOnly);
        command.Options.Add(_words);
    }

    /// <summary>What a command line gave, as words of <c>-o</c>.</summary>
    /// <exception cref="Output.CommandException">A word that is no option of a mount.</exception>
    public IReadOnlyList<string> WordsOf(ParseResult parsed)
    {
        List<string> words = [.. parsed.GetValue(_words) ?? []];
        if (parsed.GetValue(_readOnly))
            words.Add("ro");
        OptionList options = new();
        foreach (string argument in words)
            options.AddWords(argument);
        return words;
    }
}
