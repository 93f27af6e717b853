// SPDX-License-Identifier: MIT
using System.CommandLine;

namespace Qcow2Fuse.Settings;

/// <summary>Options whose value is one of a few words.</summary>
internal static class Choice
{
    /// <summary>Refuses other values, with a message of one line.</summary>
    public static void Among(Option<string> option, params string[] words) => option.Validators.Add(result =>
    {
        foreach (string value in result.Tokens.Select(static token => token.Value))
        {
            if (!words.Contains(value, StringComparer.Ordinal))
                result.AddError($"{option.Name} {value}: must be {string.Join(" or ", words)}");
        }
    });
}
