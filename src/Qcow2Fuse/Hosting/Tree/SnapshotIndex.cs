// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Security.Cryptography;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>
/// Which file stands for which snapshot of an image. Names stay in the image: of each only a hash is here, in native
/// memory of the mount's budget, so that a table of any size makes an index of 3 MiB at most, and a name is found
/// without a search.
/// </summary>
internal sealed class SnapshotIndex : IDisposable
{
    private const int NameBytesMax = 250;
    private const int FirstRoom = 16;
    private const string What = "the index of its snapshots";

    private readonly MemoryBudget _memory;
    private readonly string _image;
    private readonly HashSet<UInt128> _known;
    private readonly HashSet<UInt128> _seen = [];
    private NativeTable<int> _places;
    private NativeTable<Slot> _slots;

    /// <summary>Reads the snapshots of an image once.</summary>
    /// <param name="device">The image.</param>
    /// <param name="memory">What the index takes is taken of it.</param>
    /// <param name="known">Identities of which it is to be known whether they are still there.</param>
    /// <exception cref="BlockException">The table cannot be read, or there is no memory for the index.</exception>
    public SnapshotIndex(ISnapshots device, string image, MemoryBudget memory, IEnumerable<UInt128> known)
    {
        _memory = memory;
        _image = image;
        _known = [.. known];
        _places = new NativeTable<int>(FirstRoom, memory, _image, What);
        try
        {
            _slots = new NativeTable<Slot>(2 * FirstRoom, memory, _image, What);
        }
        catch
        {
            _places.Dispose();
            throw;
        }

        try
        {
            Version = device.VisitSnapshots(0, record =>
            {
                Add(record);
                return true;
            });
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary><see cref="ISnapshots.SnapshotVersion"/> when it was made.</summary>
    public long Version { get; }

    /// <summary>How many snapshots have a file.</summary>
    public int Count { get; private set; }

    /// <summary>What tells a snapshot from others that had or will have its name; as long as its names are.</summary>
    public static string IdentityOf(SnapshotInfo snapshot) =>
        $"{snapshot.Id} {snapshot.Name} {snapshot.DateSeconds}.{snapshot.DateNanoseconds}";

    /// <summary>The identity in 16 bytes.</summary>
    public static UInt128 KeyOf(SnapshotInfo snapshot) => BinaryPrimitives.ReadUInt128LittleEndian(
        SHA256.HashData(ByteText.Encode(IdentityOf(snapshot))));

    /// <summary>Whether a snapshot that was asked for is there.</summary>
    public bool Has(UInt128 identity) => _seen.Contains(identity);

    /// <summary>The snapshot of a name; null for none.</summary>
    public SnapshotInfo? Find(ISnapshots device, string name)
    {
        SnapshotInfo? found = null;
        if (!TryGetNumber(HashOf(name), out int number))
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
    public void Visit(ISnapshots device, int number, Func<int, string, SnapshotInfo, bool> visit)
    {
        if (number >= Count)
            return;
        device.VisitSnapshots(_places.Span[number], record =>
        {
            if (record.Place != _places.Span[number])
                return true;
            SnapshotInfo snapshot = record.Snapshot;
            string name = IsFileName(snapshot.Name)
                && TryGetNumber(HashOf(snapshot.Name), out int owner) && owner == number
                    ? snapshot.Name : snapshot.Id;

            // Behind the last one lies something else.
            return visit(number++, name, snapshot) && number < Count;
        });
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _places.Dispose();
        _slots.Dispose();
    }

    private void Add(in SnapshotRecord record)
    {
        MakeRoom();
        SnapshotInfo snapshot = record.Snapshot;
        bool hasFile = (IsFileName(snapshot.Name) && TryAdd(HashOf(snapshot.Name), Count))
            || (IsFileName(snapshot.Id) && TryAdd(HashOf(snapshot.Id), Count));
        if (!hasFile)
            return;
        _places.Span[Count++] = record.Place;
        if (_known.Count > 0 && KeyOf(snapshot) is var key && _known.Contains(key))
            _seen.Add(key);
    }

    /// <summary>Half of the slots stay free, so that a search ends soon.</summary>
    private void MakeRoom()
    {
        int room = _places.Span.Length;
        if (Count < room)
            return;
        NativeTable<int> places = new(2 * room, _memory, _image, What);
        _places.Span.CopyTo(places.Span);
        _places.Dispose();
        _places = places;
        NativeTable<Slot> old = _slots;
        _slots = new NativeTable<Slot>(4 * room, _memory, _image, What);
        foreach (Slot slot in old.Span)
        {
            if (slot.Next > 0)
                _ = TryAdd(slot.Hash, slot.Next - 1);
        }

        old.Dispose();
    }

    private bool TryAdd(ulong hash, int number)
    {
        ref Slot slot = ref SlotOf(hash);
        if (slot.Next > 0)
            return false;
        slot = new Slot(hash, number + 1);
        return true;
    }

    private bool TryGetNumber(ulong hash, out int number)
    {
        number = SlotOf(hash).Next - 1;
        return number >= 0;
    }

    /// <summary>The slot that has a hash, or the free one where it belongs.</summary>
    private ref Slot SlotOf(ulong hash)
    {
        Span<Slot> slots = _slots.Span;
        int at = (int)(hash % (uint)slots.Length);
        while (slots[at].Next > 0 && slots[at].Hash != hash)
            at = at + 1 < slots.Length ? at + 1 : 0;
        return ref slots[at];
    }

    /// <summary>64 bits that nobody can foresee.</summary>
    private static ulong HashOf(string name) =>
        ((ulong)(uint)name.GetHashCode(StringComparison.Ordinal) << 32)
        | (uint)string.GetHashCode(name + "\n", StringComparison.Ordinal);

    /// <summary>Whoever made the image chose the names.</summary>
    private static bool IsFileName(string name) =>
        name.Length is > 0 and <= NameBytesMax && name is not ("." or "..")
        && ByteText.CountBytes(name) <= NameBytesMax
        && !name.Contains('/', StringComparison.Ordinal) && !name.Contains('\0', StringComparison.Ordinal);

    /// <param name="Hash">That of the name.</param>
    /// <param name="Next">One above the number of the file; 0 for a free slot.</param>
    private readonly record struct Slot(ulong Hash, int Next);
}
