// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Images.Reports;

namespace Qcow2Fuse.Settings;

/// <summary>
/// One option of a mount, in all its forms: <c>-o name[=value]</c>, <c>--long-name</c>, <c>QCOW2FUSE_NAME</c> and
/// <c>"name"</c> in a settings file.
/// </summary>
/// <param name="Name">The name after <c>-o</c>.</param>
/// <param name="ValueName">What stands for the value in the help; null for an option that is on or off.</param>
/// <param name="Summary">One line of help.</param>
/// <param name="Apply">Puts a value into the settings; throws <see cref="FormatException"/> with what it should be.
/// </param>
internal sealed record MountOption(
    string Name, string? ValueName, string Summary, Action<MountSettings, string> Apply)
{
    /// <summary>Whether it may be given several times, each time adding a value.</summary>
    public bool Repeatable { get; init; }

    /// <summary>Whether messages must not repeat its value.</summary>
    public bool IsPrivate { get; init; }

    /// <summary>Whether it is meant for the file system inside the image, and nothing to its raw file.</summary>
    public bool IsOfFileSystem { get; init; }

    /// <summary>Whether it says how to begin only, so that a mount goes on whatever it is.</summary>
    public bool IsOfStart { get; init; }

    /// <summary>Whether it has a long form and a place in the help of its own.</summary>
    public bool IsListed { get; init; } = true;

    /// <summary>The setting it changes; differs from the name for the opposite of another option.</summary>
    public string Key { get; init; } = Name;

    /// <summary>What an option without a value stands for.</summary>
    public string Implied { get; init; } = "true";

    /// <summary>Whether <c>-o name</c> may leave the value out, for <see cref="Implied"/>.</summary>
    public bool ValueIsOptional { get; init; }

    /// <summary>Whether it is on or off and takes no value after <c>-o name</c>.</summary>
    public bool IsFlag => ValueName is null;

    /// <summary><c>--allow-path</c> for <c>allow_path</c>.</summary>
    public string LongName => "--" + Name.Replace('_', '-');

    /// <summary>An option that is on or off.</summary>
    public static MountOption Flag(string name, string summary, Action<MountSettings, bool> set) =>
        new(name, ValueName: null, summary, (settings, text) => set(settings, ParseFlag(text)));

    /// <summary>An option whose value is any text.</summary>
    public static MountOption Text(
        string name, string valueName, string summary, Action<MountSettings, string> set) =>
        new(name, valueName, summary, (settings, text) => set(settings, NotEmpty(text)));

    /// <summary>An option whose value is a number of <paramref name="least"/> to <paramref name="most"/>.</summary>
    public static MountOption Number(
        string name, string valueName, string summary, long least, long most, Action<MountSettings, long> set) =>
        new(name, valueName, summary, (settings, text) => set(settings, ParseNumber(text, least, most)));

    /// <summary>An option whose value is a number of bytes.</summary>
    public static MountOption Size(
        string name, string summary, long most, Action<MountSettings, long> set) =>
        new(name, "SIZE", summary, (settings, text) => set(settings, ParseSize(text, most)));

    /// <summary>An option whose value is one of a few words.</summary>
    public static MountOption Choice<T>(
        string name, string summary, (string Word, T Value)[] choices, Action<MountSettings, T> set) =>
        new(
            name,
            Words(choices, "|"),
            summary,
            (settings, text) => set(settings, ParseChoice(text, choices)));

    /// <summary>Whether it is a word for the opposite of another option.</summary>
    public bool IsOpposite => IsFlag && !string.Equals(Key, Name, StringComparison.Ordinal);

    /// <summary>What the setting of <see cref="Key"/> is where an opposite has this value.</summary>
    /// <exception cref="FormatException">It is neither on nor off.</exception>
    public static string Negate(string value) => ParseFlag(value) ? "false" : "true";

    private static bool ParseFlag(string text) => text.ToUpperInvariant() switch
    {
        "TRUE" or "ON" or "YES" or "1" => true,
        "FALSE" or "OFF" or "NO" or "0" => false,
        _ => throw new FormatException("must be on or off"),
    };

    private static string NotEmpty(string text) =>
        text.Length > 0 ? text : throw new FormatException("must not be empty");

    private static long ParseNumber(string text, long least, long most) =>
        long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long value)
        && value >= least && value <= most
            ? value
            : throw new FormatException($"must be a number of {least} to {most}");

    private static long ParseSize(string text, long most) =>
        SizeText.TryParse(text, out long value) && value <= most
            ? value
            : throw new FormatException($"must be a size of at most {SizeText.Human(most)}, such as 64M");

    private static T ParseChoice<T>(string text, (string Word, T Value)[] choices)
    {
        foreach ((string word, T value) in choices)
        {
            if (string.Equals(word, text, StringComparison.Ordinal))
                return value;
        }

        throw new FormatException($"must be {Words(choices, ", ")}");
    }

    /// <summary>By hand: a query over such pairs would be compiled at each start of the program.</summary>
    private static string Words<T>((string Word, T Value)[] choices, string separator)
    {
        string[] words = new string[choices.Length];
        for (int i = 0; i < words.Length; i++)
            words[i] = choices[i].Word;
        return string.Join(separator, words);
    }
}
