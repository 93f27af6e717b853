// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Qcow2.Tests.Bitmaps;

/// <summary>What the bitmaps of an image should hold: an array of bits each, changed the slow way.</summary>
internal sealed class BitmapModel
{
    /// <summary>A bitmap of the model.</summary>
    internal sealed record Entry(int GranularityBits, bool Enabled, bool[] Bits);

    public BitmapModel(long size) => Size = size;

    private BitmapModel(BitmapModel other)
    {
        Size = other.Size;
        foreach ((string name, Entry entry) in other.Bitmaps)
            Bitmaps.Add(name, entry with { Bits = [.. entry.Bits] });
    }

    public long Size { get; private set; }

    public SortedDictionary<string, Entry> Bitmaps { get; } = new(StringComparer.Ordinal);

    public BitmapModel Copy() => new(this);

    public void Add(string name, int granularityBits, bool enabled) =>
        Bitmaps.Add(name, new Entry(granularityBits, enabled, new bool[CountFor(granularityBits)]));

    public void Clear(string name) => Array.Clear(Bitmaps[name].Bits);

    public void SetEnabled(string name, bool enabled) => Bitmaps[name] = Bitmaps[name] with { Enabled = enabled };

    public void Write(long offset, long length)
    {
        foreach (Entry entry in Bitmaps.Values)
        {
            if (entry.Enabled)
                Set(entry, offset, length);
        }
    }

    public void Merge(string source, string target)
    {
        Entry from = Bitmaps[source];
        for (long i = 0; i < from.Bits.Length; i++)
        {
            long start = i << from.GranularityBits;
            if (from.Bits[i])
                Set(Bitmaps[target], start, Math.Min(Size, start + (1L << from.GranularityBits)) - start);
        }
    }

    public void Resize(long size)
    {
        Size = size;
        foreach ((string name, Entry entry) in Bitmaps.ToArray())
        {
            bool[] bits = new bool[CountFor(entry.GranularityBits)];
            Array.Copy(entry.Bits, bits, Math.Min(bits.Length, entry.Bits.Length));
            Bitmaps[name] = entry with { Bits = bits };
        }
    }

    /// <summary>What differs between a bitmap of a file, which is not in use, and the model; or null.</summary>
    public string? Compare(PlainBitmap found)
    {
        if (!Bitmaps.TryGetValue(found.Name, out Entry? entry))
            return $"bitmap {found.Name} should not exist";
        if (found.GranularityBits != entry.GranularityBits || found.Auto != entry.Enabled)
            return $"bitmap {found.Name} has flags {found.Flags} and granularity 2^{found.GranularityBits}";
        bool[] bits = found.Bits ?? [];
        if (bits.Length != entry.Bits.Length)
            return $"bitmap {found.Name} has {bits.Length} bits, not {entry.Bits.Length}";
        for (int i = 0; i < bits.Length; i++)
        {
            if (bits[i] != entry.Bits[i])
                return string.Create(CultureInfo.InvariantCulture, $"bitmap {found.Name}: bit {i} is {bits[i]}");
        }

        return null;
    }

    /// <summary>What differs between the bitmaps of a closed file and the model; or null.</summary>
    public string? Compare(IReadOnlyList<PlainBitmap> found) =>
        found.Count != Bitmaps.Count
            ? $"{found.Count} bitmaps instead of {Bitmaps.Count}"
            : found.Select(bitmap => bitmap.InUse ? $"bitmap {bitmap.Name} is in use" : Compare(bitmap))
                .FirstOrDefault(wrong => wrong is not null);

    private static void Set(Entry entry, long offset, long length)
    {
        for (long at = offset >> entry.GranularityBits; at << entry.GranularityBits < offset + length; at++)
            entry.Bits[at] = true;
    }

    private long CountFor(int granularityBits) => (Size + (1L << granularityBits) - 1) >> granularityBits;
}
