// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Qcow2.Tests.Pictures;

/// <summary>How an L2 entry stands to its host cluster.</summary>
internal enum PictureEntry
{
    /// <summary>It has none.</summary>
    None,

    /// <summary>It has one for itself. After an operation: the same as before.</summary>
    Own,

    /// <summary>A snapshot refers to the cluster too. After an operation: the same as before.</summary>
    Shared,

    /// <summary>It is a compressed cluster.</summary>
    Comp,

    /// <summary>After an operation only: another cluster than before, for itself.</summary>
    New,
}

/// <summary>One row of <c>pictures.txt</c>, which describes its columns.</summary>
internal sealed record PictureRow
{
    /// <summary>Subclusters in a cluster.</summary>
    public const int Subclusters = 32;

    private const double Far = double.MaxValue;

    /// <summary>The entries before.</summary>
    public required PictureEntry[] EntriesBefore { get; init; }

    /// <summary>The subclusters before, one character each, without separators.</summary>
    public required string Before { get; init; }

    /// <summary>Where the backing file ends in subclusters of the first cluster; 0 for none.</summary>
    public required double BackingEnd { get; init; }

    /// <summary>Where the disk ends in subclusters of the first cluster.</summary>
    public required double DiskEnd { get; init; }

    /// <summary>write, zero, unmap or discard.</summary>
    public required string Operation { get; init; }

    /// <summary>Start and end in subclusters of the first cluster.</summary>
    public required (double From, double To) Range { get; init; }

    /// <summary>The entries after.</summary>
    public required PictureEntry[] EntriesAfter { get; init; }

    /// <summary>The subclusters after.</summary>
    public required string After { get; init; }

    /// <summary>Clusters in the picture.</summary>
    public int Clusters => EntriesBefore.Length;

    /// <summary>All rows of the table as text.</summary>
    public static IEnumerable<string> Table()
    {
        using Stream stream = typeof(PictureRow).Assembly.GetManifestResourceStream("pictures.txt")!;
        using StreamReader reader = new(stream);
        while (reader.ReadLine() is { } line)
        {
            if (line.Length > 0 && line[0] != '#')
                yield return line;
        }
    }

    /// <summary>Reads a row.</summary>
    public static PictureRow Parse(string line)
    {
        string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        if (words.Length != 8)
            throw new FormatException($"\"{line}\" has {words.Length} columns");
        PictureRow row = new()
        {
            EntriesBefore = Entries(words[0]),
            Before = Plain(words[1]),
            BackingEnd = words[2].Split(',') switch
            {
                var options when options.Contains("bare") => 0,
                var options => Option(options, "short", Far),
            },
            DiskEnd = Option(words[2].Split(','), "end", Far),
            Operation = words[3],
            Range = (double.Parse(words[4], CultureInfo.InvariantCulture),
                double.Parse(words[5], CultureInfo.InvariantCulture)),
            EntriesAfter = Entries(words[6]),
            After = Plain(words[7]),
        };
        bool fits = row.Before.Length == row.Clusters * Subclusters && row.After.Length == row.Before.Length
            && row.EntriesAfter.Length == row.Clusters && row.Range.From < row.Range.To;
        return fits ? row : throw new FormatException($"\"{line}\" does not fit together");
    }

    /// <summary>A picture as people write it.</summary>
    public static string Draw(string states) => string.Join('/', states.Chunk(Subclusters)
        .Select(cluster => string.Join('_', cluster.Chunk(8).Select(eight => new string(eight)))));

    private static double Option(string[] options, string name, double otherwise) => options
        .Where(option => option.StartsWith(name + ":", StringComparison.Ordinal))
        .Select(option => double.Parse(option.AsSpan(name.Length + 1), CultureInfo.InvariantCulture))
        .FirstOrDefault(otherwise);

    private static PictureEntry[] Entries(string words) =>
        [.. words.Split('/').Select(word => Enum.Parse<PictureEntry>(word, ignoreCase: true))];

    private static string Plain(string picture) =>
        picture.Replace("_", "", StringComparison.Ordinal).Replace("/", "", StringComparison.Ordinal);
}
