// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>
/// A table of big-endian 64-bit entries that is wholly in memory: the active L1 table or the refcount table.
/// Changes are written sector by sector, as they stood when <see cref="Freeze"/> was called.
/// </summary>
/// <remarks>All methods are called with the image's gate held; <see cref="WriteFrozen"/> keeps it, as changes of these
/// tables are rare (one L1 entry maps a whole L2 table).</remarks>
internal sealed unsafe class ResidentTable : IDisposable
{
    private const int SectorBytes = 512;

    private readonly BlockDevice _file;
    private readonly MemoryBudget _budget;
    private readonly MemoryCharge _charge;
    private readonly SortedSet<int> _dirtySectors = [];
    private readonly List<(int Sector, byte[] Content)> _frozen = [];
    private byte* _bytes;

    private ResidentTable(BlockDevice file, HostOffset offset, int entries, MemoryBudget budget, bool isOwed = false)
    {
        _file = file;
        _budget = budget;
        Offset = offset;
        Count = entries;
        _charge = budget.Take(isOwed ? 0 : entries * 8L, file.Name, "a table of its clusters");
        if (isOwed)
            _charge.Owe(entries * 8L);
        _bytes = (byte*)NativeMemory.AlignedAlloc((nuint)Math.Max(entries * 8L, 8), 4096);
    }

    /// <summary>Entries of the table.</summary>
    public int Count { get; }

    /// <summary>Where the table lies in the image file.</summary>
    public HostOffset Offset { get; }

    public bool HasDirty => _dirtySectors.Count > 0;

    public bool HasFrozen => _frozen.Count > 0;

    /// <summary>Reads a table of <paramref name="entries"/> entries.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>, or it cannot be read.</exception>
    public static ResidentTable Load(BlockDevice file, HostOffset offset, int entries, MemoryBudget budget)
    {
        var table = new ResidentTable(file, offset, entries, budget);
        try
        {
            if (entries > 0)
                file.Read(offset.Value, table.Bytes);
            return table;
        }
        catch
        {
            table.Dispose();
            throw;
        }
    }

    /// <summary>A larger copy at another place, nothing of which is on disk yet.</summary>
    /// <param name="offset">The place.</param>
    /// <param name="entries">Entries of the copy.</param>
    /// <param name="isOwed">Its memory is taken also where none is left: a write must not fail for want of it.</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>.</exception>
    public ResidentTable CopyTo(HostOffset offset, int entries, bool isOwed = false)
    {
        var copy = new ResidentTable(_file, offset, entries, _budget, isOwed);
        copy.Bytes.Clear();
        Bytes.CopyTo(copy.Bytes);
        return copy;
    }

    /// <summary>Takes over what changed in <paramref name="smaller"/> since this copy of it was made.</summary>
    public void Adopt(ResidentTable smaller)
    {
        smaller.Bytes.CopyTo(Bytes);
        _dirtySectors.UnionWith(smaller._dirtySectors);
    }

    public ulong this[long index]
    {
        get
        {
            CheckIndex(index);
            return BinaryPrimitives.ReverseEndianness(((ulong*)_bytes)[index]);
        }

        set
        {
            CheckIndex(index);
            ((ulong*)_bytes)[index] = BinaryPrimitives.ReverseEndianness(value);
            _dirtySectors.Add((int)(index * 8 / SectorBytes));
        }
    }

    /// <summary>Writes the whole table and zeroes behind it, <paramref name="bytes"/> in all.</summary>
    public void WriteAll(long bytes)
    {
        _file.Write(Offset.Value, Bytes);
        if (bytes > Bytes.Length)
            _file.WriteZeroes(Offset.Value + Bytes.Length, bytes - Bytes.Length, mayUnmap: false);
        _dirtySectors.Clear();
    }

    /// <summary>Sets the present content of the changed sectors aside for <see cref="WriteFrozen"/>.</summary>
    public void Freeze()
    {
        foreach (int sector in _dirtySectors)
            _frozen.Add((sector, Sector(sector).ToArray()));
        _dirtySectors.Clear();
    }

    /// <summary>Writes what was frozen; what fails stays frozen.</summary>
    public void WriteFrozen()
    {
        while (_frozen.Count > 0)
        {
            (int sector, byte[] content) = _frozen[^1];
            _file.Write(Offset.Value + ((long)sector * SectorBytes), content);
            _frozen.RemoveAt(_frozen.Count - 1);
        }
    }

    /// <summary>Makes what is still frozen dirty again.</summary>
    public void Thaw()
    {
        foreach ((int sector, _) in _frozen)
            _dirtySectors.Add(sector);
        _frozen.Clear();
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_bytes);
        _bytes = null;
        _charge.Dispose();
    }

    private void CheckIndex(long index)
    {
        if ((ulong)index >= (ulong)Count)
            throw new ArgumentOutOfRangeException(nameof(index), index, "Beyond the end of the table.");
    }

    private Span<byte> Bytes => new(_bytes, checked(Count * 8));

    private Span<byte> Sector(int sector)
    {
        int start = sector * SectorBytes;
        return Bytes.Slice(start, Math.Min(SectorBytes, (Count * 8) - start));
    }
}
