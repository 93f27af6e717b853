// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Testing.Model;

/// <summary>
/// Which values of the axes, and which pairs of values of two axes, a list of cases contains; and an order of all
/// combinations that has every pair as early as it can.
/// </summary>
public sealed class ModelCoverage
{
    private static readonly HashSet<Pair> s_valid = [.. ModelCase.AllValid.SelectMany(PairsOf)];

    private readonly HashSet<Pair> _pairs = [];
    private readonly HashSet<(int Axis, string Value)> _values = [];
    private readonly HashSet<ModelCase> _combinations = [];

    /// <summary>Pairs of values of two axes that exist, whether the format allows them or not.</summary>
    public static int AllPairs { get; } =
        ModelCase.Axes.SelectMany((axis, i) => ModelCase.Axes.Skip(i + 1).Select(
            other => axis.Values.Length * other.Values.Length)).Sum();

    /// <summary>Pairs that some image has.</summary>
    public static int ValidPairs => s_valid.Count;

    /// <summary>Pairs that no image has, as version 2 with a data file.</summary>
    public static int ExcludedPairs => AllPairs - ValidPairs;

    /// <summary>
    /// All combinations, greedily: the next one is always the one with the most pairs that none before it has.
    /// </summary>
    public static IReadOnlyList<ModelCase> Ordered { get; } = Order();

    /// <summary>Valid pairs that no added case has.</summary>
    public int MissingPairs => ValidPairs - _pairs.Count;

    /// <summary>Values that no added case has.</summary>
    public int MissingValues => ModelCase.Axes.Sum(axis => axis.Values.Length) - _values.Count;

    /// <summary>Different combinations of all axes among the added cases.</summary>
    public int Combinations => _combinations.Count;

    private static int All => ModelCase.AllValid.Count;

    /// <summary>Counts what a case has.</summary>
    public void Add(ModelCase one)
    {
        _pairs.UnionWith(PairsOf(one));
        _values.UnionWith(one.Values.Select((value, axis) => (axis, value)));
        _combinations.Add(one with { Seed = 0 });
    }

    /// <inheritdoc/>
    public override string ToString()
    {
        int values = ModelCase.Axes.Sum(axis => axis.Values.Length);
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{values - MissingValues} of {values} values, {_pairs.Count} of {ValidPairs} pairs ")
            + string.Create(
                CultureInfo.InvariantCulture,
                $"({ExcludedPairs} more are no valid image), {Combinations} of {All} combinations");
    }

    private static ModelCase[] Order()
    {
        List<ModelCase> left = [.. ModelCase.AllValid];
        List<ModelCase> ordered = [];
        HashSet<Pair> seen = [];
        while (seen.Count < s_valid.Count)
        {
            ModelCase next = left.MaxBy(one => PairsOf(one).Count(pair => !seen.Contains(pair)))!;
            left.Remove(next);
            ordered.Add(next);
            seen.UnionWith(PairsOf(next));
        }

        return [.. ordered, .. left];
    }

    private static IEnumerable<Pair> PairsOf(ModelCase one)
    {
        string[] values = one.Values;
        for (int i = 0; i < values.Length; i++)
        {
            for (int j = i + 1; j < values.Length; j++)
                yield return new Pair(i, values[i], j, values[j]);
        }
    }

    private readonly record struct Pair(int First, string FirstValue, int Second, string SecondValue);
}
