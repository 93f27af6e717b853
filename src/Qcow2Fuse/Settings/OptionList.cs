// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Settings;

/// <summary>Mount options in the order of the command line, checked against <see cref="MountOptions"/>.</summary>
internal sealed class OptionList
{
    private readonly List<(MountOption Option, string Value)> _entries = [];

    /// <summary>The options and their values, in order.</summary>
    public IReadOnlyList<(MountOption Option, string Value)> Entries => _entries;

    /// <summary>The options as words of <c>-o</c>, one for each, without those of the file system inside the image.
    /// </summary>
    public IReadOnlyList<string> ToWords() =>
    [
        .. _entries.Where(static entry => !entry.Option.IsOfFileSystem).Select(static entry => entry.Option.IsOpposite
            ? entry.Option.Name
            : $"{entry.Option.Name}={Escape(entry.Value)}"),
    ];

    /// <summary>Adds an option that was found by its long name.</summary>
    public void Add(MountOption option, string value) => _entries.Add((option, value));

    /// <summary>
    /// Adds the words of one <c>-o</c> argument: <c>name[=value]</c>, separated by commas; a backslash takes the
    /// meaning from a comma or a backslash after it, as in libfuse, and so do quotes around a value, as in mount(8).
    /// </summary>
    /// <exception cref="CommandException">An unknown option, a missing value, or one that is not wanted.</exception>
    public void AddWords(string argument)
    {
        foreach (string word in Split(argument))
        {
            int equals = word.IndexOf('=', StringComparison.Ordinal);
            string name = equals < 0 ? word : word[..equals];
            AddWord(name, equals < 0 ? null : word[(equals + 1)..]);
        }
    }

    /// <summary>The argument of one <c>-o</c> without the words that are no options here.</summary>
    public static string WithoutUnknown(string argument) => string.Join(',', Split(argument)
        .Where(static word => MountOptions.IsIgnored(NameOf(word)) || MountOptions.Find(NameOf(word)) is not null)
        .Select(Escape));

    private static string NameOf(string word) => word.Split('=', 2)[0];

    private void AddWord(string name, string? value)
    {
        if (MountOptions.IsIgnored(name))
            return;
        MountOption option = MountOptions.Find(name)
            ?? throw CommandException.Usage(
                $"unknown option {name}" + Suggestion.For(
                    name.Replace('-', '_'), MountOptions.All.Select(static one => one.Name)),
                "qcow2fuse mount --help lists the options");
        if (value is null && !option.IsFlag && !option.ValueIsOptional)
            throw CommandException.Usage($"option {option.Name} needs a value: {option.Name}={option.ValueName}");

        // Who would know what "rw=off" means.
        if (value is not null && option.IsOpposite)
            throw CommandException.Usage($"option {option.Name} takes no value");
        Add(option, value ?? option.Implied);
    }

    /// <summary>A value as <see cref="AddWords"/> reads it.</summary>
    public static string Escape(string value) =>
        value.Replace("\\", "\\\\", StringComparison.Ordinal).Replace(",", "\\,", StringComparison.Ordinal);

    private static List<string> Split(string argument)
    {
        List<string> words = [];
        StringBuilder word = new();
        bool isQuoted = false;
        for (int i = 0; i < argument.Length; i++)
        {
            char c = argument[i];
            if (c == '"' && (isQuoted ? EndsWord(i + 1) : word.Length > 0 && word[^1] == '=' && IsClosed(i + 1)))
                isQuoted = !isQuoted;
            else if (isQuoted)
                word.Append(c);
            else if (c == '\\' && i + 1 < argument.Length && (argument[i + 1] is ',' or '\\'))
                word.Append(argument[++i]);
            else if (c == ',')
                Finish();
            else
                word.Append(c);
        }

        Finish();
        return words;

        bool IsClosed(int next) =>
            argument.IndexOf("\",", next, StringComparison.Ordinal) >= 0
            || (next < argument.Length && argument[^1] == '"');

        bool EndsWord(int next) => next == argument.Length || argument[next] == ',';

        void Finish()
        {
            if (word.Length > 0)
                words.Add(word.ToString());
            word.Clear();
        }
    }
}
