// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// Which file stands for which snapshot of an image. Names stay in the image: of each only a hash is here, so that a
/// table of any size makes an index of a few MiB at most, and a name is found without a search.
/// </summary>
internal sealed class SnapshotIndex
{
    private const int NameBytesMax = 250;

    private readonly List<int> _places = [];
    private readonly Dictionary<ulong, int> _numbers = [];
    private readonly HashSet<string> _known;
    private readonly HashSet<string> _seen = new(StringComparer.Ordinal);

    /// <summary>Reads the snapshots of an image once.</summary>
    /// <param name="device">The image.</param>
    /// <param name="known">Identities of which it is to be known whether they are still there.</param>
    public SnapshotIndex(Qcow2Device device, IEnumerable<string> known)
    {
        _known = new HashSet<string>(known, StringComparer.Ordinal);
        Version = device.VisitSnapshots(0, record =>
        {
            Add(record);
            return true;
        });
    }

    /// <summary><see cref="Qcow2Device.SnapshotVersion"/> when it was made.</summary>
    public long Version { get; }

    /// <summary>How many snapshots have a file.</summary>
    public int Count => _places.Count;

    /// <summary>What tells a snapshot from others that had or will have its name.</summary>
    public static string IdentityOf(SnapshotInfo snapshot) =>
        $"{snapshot.Id} {snapshot.Name} {snapshot.DateSeconds}.{snapshot.DateNanoseconds}";

    /// <summary>Whether a snapshot that was asked for is there.</summary>
    public bool Has(string identity) => _seen.Contains(identity);

    /// <summary>The snapshot of a name; null for none.</summary>
    public SnapshotInfo? Find(Qcow2Device device, string name)
    {
        SnapshotInfo? found = null;
        if (!_numbers.TryGetValue(KeyOf(name), out int number))
            return found;
        Visit(device, number, (_, at, snapshot) =>
        {
            if (string.Equals(at, name, StringComparison.Ordinal))
                found = snapshot;
            return false;
        });
        return found;
    }

    /// <summary>Goes through the files from a number on, until the visitor returns false.</summary>
    /// <param name="device">The image.</param>
    /// <param name="number">The first file.</param>
    /// <param name="visit">Gets the number, the name and the snapshot of each.</param>
    public void Visit(Qcow2Device device, int number, Func<int, string, SnapshotInfo, bool> visit)
    {
        if (number >= _places.Count)
            return;
        device.VisitSnapshots(_places[number], record =>
        {
            if (record.Place != _places[number])
                return true;
            SnapshotInfo snapshot = record.Snapshot;
            string name = IsFileName(snapshot.Name)
                && _numbers.TryGetValue(KeyOf(snapshot.Name), out int owner) && owner == number
                    ? snapshot.Name : snapshot.Id;

            // Behind the last one lies something else.
            return visit(number++, name, snapshot) && number < _places.Count;
        });
    }

    private void Add(in SnapshotRecord record)
    {
        SnapshotInfo snapshot = record.Snapshot;
        int number = _places.Count;
        bool hasFile = (IsFileName(snapshot.Name) && _numbers.TryAdd(KeyOf(snapshot.Name), number))
            || (IsFileName(snapshot.Id) && _numbers.TryAdd(KeyOf(snapshot.Id), number));
        if (!hasFile)
            return;
        _places.Add(record.Place);
        if (_known.Count > 0 && IdentityOf(snapshot) is var identity && _known.Contains(identity))
            _seen.Add(identity);
    }

    /// <summary>64 bits that nobody can foresee.</summary>
    private static ulong KeyOf(string name) =>
        ((ulong)(uint)name.GetHashCode(StringComparison.Ordinal) << 32)
        | (uint)string.GetHashCode(name + "\n", StringComparison.Ordinal);

    /// <summary>Whoever made the image chose the names.</summary>
    private static bool IsFileName(string name) =>
        name.Length is > 0 and <= NameBytesMax && name is not ("." or "..")
        && Encoding.UTF8.GetByteCount(name) <= NameBytesMax
        && !name.Contains('/', StringComparison.Ordinal) && !name.Contains('\0', StringComparison.Ordinal)
        && !name.Contains('\uFFFD', StringComparison.Ordinal);
}
