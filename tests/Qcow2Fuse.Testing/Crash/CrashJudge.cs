// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>
/// Judges one state: the image opens, its metadata has no errors, nothing durable is lost, and no sector holds a
/// content it could not have. Leaked clusters are allowed.
/// </summary>
public sealed class CrashJudge
{
    private const int SectorSize = SectorTable.SectorSize;

    private readonly SectorTable _table;
    private readonly GuestHistory _history;
    private readonly ArrayImage? _backing;
    private readonly int[] _backingIds;
    private readonly PlainCipher? _cipher;
    private readonly Dictionary<ulong, Unpacked> _unpacked = [];
    private readonly Dictionary<(int Id, long Host, int Guest), int> _decrypted = [];

    /// <summary>
    /// Prepares judging images with this history and backing file (null for none), whose data is encrypted or, with
    /// null, is not.
    /// </summary>
    public CrashJudge(SectorTable table, GuestHistory history, byte[]? backing, PlainCipher? cipher = null)
    {
        _cipher = cipher;
        _table = table;
        _history = history;
        _backing = backing is null ? null : new ArrayImage(backing);
        _backingIds = SectorsOf(table, backing, history.SectorCount);
    }

    /// <summary>Which sizes and snapshots the image may have.</summary>
    public required ImageTimeline Timeline { get; init; }

    /// <summary>What else the images have.</summary>
    public CrashFeatures Features { get; init; }

    /// <summary>
    /// Whether COPIED flags may be stale, as a power cut while a snapshot is made leaves them.
    /// </summary>
    public bool AllowsStaleFlags => (Features & CrashFeatures.Snapshots) != CrashFeatures.None;

    /// <summary>The content numbers of the first sectors of a file, zeroes past its end.</summary>
    public static int[] SectorsOf(SectorTable table, byte[]? bytes, int count)
    {
        int[] ids = new int[count];
        if (bytes is null)
            return ids;
        ArrayImage image = new(bytes);
        Span<byte> sector = stackalloc byte[SectorSize];
        for (int i = 0; i < count; i++)
        {
            image.Read((long)i * SectorSize, sector);
            ids[i] = table.Intern(sector);
        }

        return ids;
    }

    /// <summary>A plain reader of a state of the image and of its data file, if it has one.</summary>
    public PlainReader Open(ByteImage state, ByteImage? data = null) => new(state, _backing, data, _cipher);

    /// <summary>What is wrong with a state left by a crash at a moment, or null.</summary>
    public string? Judge(SectorImage state, long time, SectorImage? data = null)
    {
        try
        {
            PlainReader reader = Open(state, data);
            PlainCheck check = reader.Check(AllowsStaleFlags);
            if (check.Errors.Count > 0)
                return "metadata: " + string.Join("; ", check.Errors);
            return Timeline.Judge(reader, time, from => IdsOf(from, state))
                ?? JudgeContent(reader, state, data, time)
                ?? JudgeRaw(reader, data, time);
        }
        catch (PlainReaderException failure)
        {
            return "does not open or read: " + failure.Message;
        }
    }

    /// <summary>What is wrong with the size and the snapshots alone, or null.</summary>
    public string? JudgeImage(SectorImage state, long time, SectorImage? data = null) =>
        Timeline.Judge(Open(state, data), time, from => IdsOf(from, state));

    private string? JudgeContent(PlainReader reader, SectorImage state, SectorImage? data, long time)
    {
        int durableBefore = _history.DurableBefore(time);
        return Visit(reader, state, data, (sector, id, place) =>
            _history.IsLegal(sector, id, time, durableBefore) ? null : Wrong(sector, place, id, time));
    }

    /// <summary>A raw data file alone is the guest's disk, whatever the image says.</summary>
    private string? JudgeRaw(PlainReader reader, SectorImage? data, long time)
    {
        if (data is null || (Features & CrashFeatures.RawData) == CrashFeatures.None)
            return null;
        int durableBefore = _history.DurableBefore(time);
        for (int sector = 0; sector < reader.Size / SectorSize; sector++)
        {
            if (!_history.IsLegal(sector, data.IdAt(sector), time, durableBefore))
                return $"sector {sector} of the data file holds {_history.Describe(sector, data.IdAt(sector), time)}";
        }

        return null;
    }

    /// <summary>The content numbers of all sectors a reader of a state sees.</summary>
    private int[] IdsOf(PlainReader reader, SectorImage state)
    {
        int[] ids = new int[reader.Size / SectorSize];
        Visit(reader, state, null, (sector, id, _) =>
        {
            ids[sector] = id;
            return null;
        });
        return ids;
    }

    /// <summary>Shows every sector of the guest's disk until something is wrong.</summary>
    private string? Visit(
        PlainReader reader, SectorImage state, SectorImage? data, Func<int, int, Place, string?> judge)
    {
        for (long guest = 0; guest < reader.Size;)
        {
            Place place = reader.Locate(guest);
            int first = (int)(guest / SectorSize);
            int count = (int)((place.Length + SectorSize - 1) / SectorSize);
            int[] packed = place.Kind == PlaceKind.Compressed ? Unpack(reader, state, place, guest) : [];
            for (int i = 0; i < count; i++)
            {
                int id = place.Kind switch
                {
                    PlaceKind.Data => Decrypted(data ?? state, (place.HostOffset / SectorSize) + i, first + i),
                    PlaceKind.Zero => SectorTable.Zero,
                    PlaceKind.Unallocated => _backingIds[first + i],
                    _ => packed[(first + i) % packed.Length],
                };
                if (judge(first + i, id, place) is { } wrong)
                    return wrong;
            }

            guest += place.Length;
        }

        return null;
    }

    /// <summary>The content number of a sector as the guest sees it; each is decrypted once.</summary>
    private int Decrypted(SectorImage state, long host, int guest)
    {
        int id = state.IdAt(host);
        if (_cipher is null)
            return id;
        if (_decrypted.TryGetValue((id, host, guest), out int known))
            return known;
        byte[] sector = _table.Content(id).ToArray();
        _cipher.Decrypt((long)guest * SectorSize, host * SectorSize, sector);
        return _decrypted[(id, host, guest)] = _table.Intern(sector);
    }

    private string Wrong(int sector, Place place, int id, long time) => string.Create(
        CultureInfo.InvariantCulture,
        $"guest sector {sector} (0x{(long)sector * SectorSize:x}, {place.Kind} at 0x{place.HostOffset:x}) holds ")
        + _history.Describe(sector, id, time);

    /// <summary>The sectors of a compressed cluster; unpacked again only where its bytes have changed.</summary>
    private int[] Unpack(PlainReader reader, SectorImage state, Place place, long guest)
    {
        int first = (int)(place.HostOffset / SectorSize);
        int count = (reader.CompressedLength(place.Entry) + SectorSize - 1) / SectorSize;
        int[] host = new int[count];
        for (int i = 0; i < count; i++)
            host[i] = state.IdAt(first + i);
        if (_unpacked.TryGetValue(place.Entry, out Unpacked? known) && known.Host.AsSpan().SequenceEqual(host))
            return known.Ids;

        int clusterSize = reader.Header.ClusterSize;
        byte[] bytes = new byte[clusterSize];
        reader.Read(guest / clusterSize * clusterSize, bytes);
        int[] ids = SectorsOf(_table, bytes, clusterSize / SectorSize);
        _unpacked[place.Entry] = new Unpacked(host, ids);
        return ids;
    }

    private sealed record Unpacked(int[] Host, int[] Ids);
}
