// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary>Options that several verbs have in the same form, as the tools of QEMU have them.</summary>
internal static class CommonOptions
{
    private const string Json = "json";
    private const string Text = "human";

    /// <summary><c>--output</c>: text for people, or JSON.</summary>
    /// <param name="condition">When it counts, such as ", for -l".</param>
    public static Option<string> Output(string condition = "")
    {
        Option<string> output = new("--output")
        {
            Description = "human or json" + condition,
            HelpName = "FORM",
            DefaultValueFactory = static _ => Text,
        };
        Choice.Among(output, Text, Json);
        return output;
    }

    /// <summary>Whether JSON is wanted.</summary>
    public static bool IsJson(ParseResult parsed, Option<string> output) => parsed.GetValue(output) is Json;

    /// <summary><c>-U</c>: looking at an image that somebody else may be changing.</summary>
    /// <param name="look">How the description begins.</param>
    public static Option<bool> ForceShare(string look = "Look") => new("-U", "--force-share")
    { Description = look + " although another process may be writing to the image" };

    /// <summary><c>-f</c> of a verb that recognises formats.</summary>
    public static Option<string?> Format() => new("-f", "--format")
    { Description = "Format of the image: qcow2 or raw (default: recognised)", HelpName = "FORMAT" };
}
