// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Testing.Model;

/// <summary>How long the backing file is beside the disk.</summary>
public enum ModelBacking
{
    /// <summary>There is none.</summary>
    None,

    /// <summary>Shorter than the disk.</summary>
    Shorter,

    /// <summary>Longer than the disk.</summary>
    Longer,
}

/// <summary>One combination of the axes of the model test, and the seed from which all the rest follows.</summary>
/// <param name="Version">2 or 3.</param>
/// <param name="ClusterSize">512, 4096, 65536 or 2097152 bytes.</param>
/// <param name="ExtendedL2">Whether L2 entries are extended.</param>
/// <param name="RefcountBits">1, 2, 4, 8, 16, 32 or 64.</param>
/// <param name="Backing">The backing file.</param>
/// <param name="DataFile">Whether guest data lies in an external data file.</param>
/// <param name="Compressed">Whether some clusters are compressed at the start.</param>
/// <param name="Seed">Decides size, first content, options and operations.</param>
public sealed record ModelCase(
    int Version, int ClusterSize, bool ExtendedL2, int RefcountBits, ModelBacking Backing, bool DataFile,
    bool Compressed, ulong Seed = 0)
{
    /// <summary>The axes by name, with all values of each.</summary>
    public static IReadOnlyList<(string Name, string[] Values)> Axes { get; } =
    [
        ("version", ["2", "3"]),
        ("cluster", ["512", "4096", "65536", "2097152"]),
        ("l2", ["standard", "extended"]),
        ("refcount", ["1", "2", "4", "8", "16", "32", "64"]),
        ("backing", ["none", "shorter", "longer"]),
        ("data-file", ["no", "yes"]),
        ("compressed", ["no", "yes"]),
    ];

    /// <summary>Every combination the format allows, once, with seed 0.</summary>
    public static IReadOnlyList<ModelCase> AllValid { get; } =
        [.. Product(0, []).Select(values => FromValues(values, 0)).Where(one => one.IsValid)];

    /// <summary>
    /// Whether the format allows the combination: version 2 has refcounts of 16 bits, standard entries and no data
    /// file; extended entries need clusters of 16 KiB; a data file holds no compressed clusters.
    /// </summary>
    public bool IsValid =>
        (Version == 3 || (RefcountBits == 16 && !ExtendedL2 && !DataFile))
        && (!ExtendedL2 || ClusterSize >= 16384)
        && !(DataFile && Compressed);

    /// <summary>Its value on each of <see cref="Axes"/>, in their order.</summary>
    public string[] Values =>
    [
        Version.ToString(CultureInfo.InvariantCulture),
        ClusterSize.ToString(CultureInfo.InvariantCulture),
        ExtendedL2 ? "extended" : "standard",
        RefcountBits.ToString(CultureInfo.InvariantCulture),
        Backing switch { ModelBacking.None => "none", ModelBacking.Shorter => "shorter", _ => "longer" },
        DataFile ? "yes" : "no",
        Compressed ? "yes" : "no",
    ];

    /// <summary>Reads what <see cref="ToString"/> prints.</summary>
    /// <exception cref="FormatException">It is something else, or a combination that is not valid.</exception>
    public static ModelCase Parse(string text)
    {
        Dictionary<string, string> words = text.Split(' ', StringSplitOptions.RemoveEmptyEntries)
            .Select(word => word.Split('=', 2))
            .ToDictionary(pair => pair[0], pair => pair.Length == 2 ? pair[1] : "");
        string[] values = [.. Axes.Select(axis =>
            words.TryGetValue(axis.Name, out string? value) && axis.Values.Contains(value)
                ? value
                : throw new FormatException($"\"{text}\": {axis.Name} is missing or unknown"))];
        ulong seed = ulong.Parse(
            words["seed"].Replace("0x", "", StringComparison.Ordinal), NumberStyles.HexNumber,
            CultureInfo.InvariantCulture);
        ModelCase one = FromValues(values, seed);
        return one.IsValid ? one : throw new FormatException($"\"{text}\" is no image the format allows");
    }

    /// <inheritdoc/>
    public override string ToString() =>
        string.Join(' ', Axes.Zip(Values, (axis, value) => $"{axis.Name}={value}"))
        + string.Create(CultureInfo.InvariantCulture, $" seed=0x{Seed:x}");

    private static ModelCase FromValues(string[] values, ulong seed) => new(
        int.Parse(values[0], CultureInfo.InvariantCulture),
        int.Parse(values[1], CultureInfo.InvariantCulture),
        values[2] == "extended",
        int.Parse(values[3], CultureInfo.InvariantCulture),
        Enum.Parse<ModelBacking>(values[4], ignoreCase: true),
        values[5] == "yes",
        values[6] == "yes",
        seed);

    private static IEnumerable<string[]> Product(int axis, string[] chosen) => axis == Axes.Count
        ? [chosen]
        : Axes[axis].Values.SelectMany(value => Product(axis + 1, [.. chosen, value]));
}
