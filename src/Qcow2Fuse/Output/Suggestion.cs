// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Output;

/// <summary>Words that somebody may have meant.</summary>
internal static class Suggestion
{
    /// <summary>
    /// <c>; did you mean X?</c> for the word that is nearest to one that is not known, or nothing where none is near.
    /// </summary>
    /// <param name="word">What was typed.</param>
    /// <param name="known">What could have been.</param>
    public static string For(string word, IEnumerable<string> known) =>
        Nearest(word, known) is { } nearest ? $"; did you mean {nearest}?" : "";

    /// <summary>The known word with the fewest letters to change; null where none is near.</summary>
    public static string? Nearest(string word, IEnumerable<string> known)
    {
        string? best = null;

        // Of a short word more than one changed letter makes another.
        int least = (word.Length <= 4 ? 1 : 2) + 1;
        foreach (string candidate in known)
        {
            int distance = Distance(word, candidate);
            if (distance < least)
            {
                least = distance;
                best = candidate;
            }
        }

        return best;
    }

    /// <summary>How many letters to change, add or leave out; two that have changed places are one change.</summary>
    private static int Distance(string from, string to)
    {
        int[] older = new int[to.Length + 1];
        int[] last = [.. Enumerable.Range(0, to.Length + 1)];
        for (int i = 1; i <= from.Length; i++)
        {
            int[] row = new int[to.Length + 1];
            row[0] = i;
            for (int j = 1; j <= to.Length; j++)
            {
                int changed = from[i - 1] == to[j - 1] ? 0 : 1;
                row[j] = Math.Min(Math.Min(row[j - 1], last[j]) + 1, last[j - 1] + changed);
                if (i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1])
                    row[j] = Math.Min(row[j], older[j - 2] + 1);
            }

            older = last;
            last = row;
        }

        return last[to.Length];
    }
}
