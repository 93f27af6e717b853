// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Output;

/// <summary>What a user typed, as far as advice depends on it: another command has other options.</summary>
internal enum TypedVerb
{
    /// <summary><c>qcow2fuse mount</c>, or the bare form.</summary>
    Mount,

    /// <summary>The helper of mount(8), which knows <c>-o</c> alone.</summary>
    Helper,

    /// <summary><c>mount --fs</c>.</summary>
    FileSystem,

    /// <summary><c>attach</c>.</summary>
    Attach,

    /// <summary><c>run</c>.</summary>
    Run,

    /// <summary><c>info</c>, <c>check</c> and <c>snapshot -l</c>, which change nothing.</summary>
    Look,

    /// <summary><c>snapshot</c> with a change.</summary>
    Snapshot,

    /// <summary><c>bitmap</c>.</summary>
    Bitmap,

    /// <summary><c>resize</c>.</summary>
    Resize,

    /// <summary>A verb at work in the daemon that has the image mounted: only the mount has options.</summary>
    Mounted,

    /// <summary>Any other.</summary>
    Other,
}

/// <summary>What was typed to start this process, or the one that started it.</summary>
internal static class Typed
{
    /// <summary>The variable by which a daemon is told.</summary>
    public const string Variable = "QCOW2FUSE_TYPED";

    /// <summary>The verb. A command that does one of several things says which when it knows.</summary>
    public static TypedVerb Verb { get; set; } = TypedVerb.Other;

    /// <summary>Takes the verb from a command line, or from the process that started this one.</summary>
    /// <param name="arguments">The command line with a verb first.</param>
    /// <param name="isHelper">Whether mount(8) typed it.</param>
    public static void Take(IReadOnlyList<string> arguments, bool isHelper)
    {
        if (Enum.TryParse(Environment.GetEnvironmentVariable(Variable), out TypedVerb told) && Enum.IsDefined(told))
        {
            Verb = told;
            return;
        }

        Verb = (arguments.Count > 0 ? arguments[0] : "") switch
        {
            "mount" => isHelper ? TypedVerb.Helper : TypedVerb.Mount,
            "attach" => TypedVerb.Attach,
            "run" => TypedVerb.Run,
            "info" or "check" => TypedVerb.Look,
            "snapshot" => TypedVerb.Snapshot,
            "bitmap" => TypedVerb.Bitmap,
            "resize" => TypedVerb.Resize,
            _ => TypedVerb.Other,
        };
    }
}
