// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>A snapshot as a crash run knows it.</summary>
/// <param name="Name">Its name, which no other snapshot of the run ever has.</param>
/// <param name="Size">Bytes of its disk.</param>
/// <param name="Ids">The content numbers of its sectors.</param>
public sealed record KnownSnapshot(string Name, long Size, int[] Ids);

/// <summary>
/// Which sizes and which snapshots an image may have after a crash. A change is one step: before it began the image is
/// as it was, once it has returned it is changed for good, and in between it is one or the other as a whole.
/// </summary>
public sealed class ImageTimeline(long size)
{
    private readonly List<Version> _versions = [new(0, 0, size, [])];

    /// <summary>The size now, without a crash.</summary>
    public long Size => _versions[^1].Size;

    /// <summary>The snapshots now, without a crash.</summary>
    public IReadOnlyList<KnownSnapshot> Snapshots => _versions[^1].Snapshots;

    /// <summary>Adds a change that was issued and has returned.</summary>
    public void Change(long begin, long end, long newSize, IReadOnlyList<KnownSnapshot> snapshots) =>
        _versions.Add(new Version(begin, end, newSize, snapshots));

    /// <summary>What is wrong with the size and the snapshots of an image after a crash at a moment, or null.</summary>
    /// <param name="reader">The image.</param>
    /// <param name="time">The moment; <see cref="long.MaxValue"/> for an image that was closed.</param>
    /// <param name="sectors">The content numbers of what a reader sees.</param>
    public string? Judge(PlainReader reader, long time, Func<PlainReader, int[]> sectors)
    {
        if (_versions.Count == 1 && reader.Header.SnapshotCount == 0)
            return reader.Size == Size ? null : Differs(reader);
        int now = _versions.FindLastIndex(version => version.End <= time);
        bool isChanging = now + 1 < _versions.Count && _versions[now + 1].Begin <= time;
        IReadOnlyList<PlainSnapshot> found = reader.Snapshots();
        Version? seen = Matches(_versions[now], reader, found) ? _versions[now]
            : isChanging && Matches(_versions[now + 1], reader, found) ? _versions[now + 1]
            : null;
        if (seen is null)
            return Differs(reader) + "; expected " + _versions[now] + (isChanging ? " or " + _versions[now + 1] : "");
        for (int i = 0; i < found.Count; i++)
        {
            int[] ids = sectors(reader.At(found[i]));
            int same = ids.AsSpan().CommonPrefixLength(seen.Snapshots[i].Ids);
            if (same != ids.Length || same != seen.Snapshots[i].Ids.Length)
                return $"snapshot {found[i].Name} holds something else from its sector {same} on";
        }

        return null;
    }

    private static bool Matches(Version version, PlainReader reader, IReadOnlyList<PlainSnapshot> found) =>
        reader.Size == version.Size
        && found.Count == version.Snapshots.Count
        && found.Zip(version.Snapshots).All(pair =>
            string.Equals(pair.First.Name, pair.Second.Name, StringComparison.Ordinal)
            && pair.First.DiskSize == pair.Second.Size);

    private static string Differs(PlainReader reader) => string.Create(
        CultureInfo.InvariantCulture,
        $"the disk has {reader.Size} bytes and the snapshots ")
        + string.Join(", ", reader.Snapshots().Select(static snapshot => snapshot.Name));

    private sealed record Version(long Begin, long End, long Size, IReadOnlyList<KnownSnapshot> Snapshots)
    {
        public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Size} bytes and ")
            + string.Join(", ", Snapshots.Select(static snapshot => snapshot.Name));
    }
}
