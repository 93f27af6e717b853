// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>
/// A file as an array of sector content numbers. Copies cost four bytes a sector, so thousands of states of one image
/// are cheap. Sectors past the end read as zeroes.
/// </summary>
public sealed class SectorImage : ByteImage
{
    private const int SectorSize = SectorTable.SectorSize;

    private int[] _ids = [];
    private long _length;

    /// <summary>Creates an empty file whose contents are kept in <paramref name="table"/>.</summary>
    public SectorImage(SectorTable table) => Table = table;

    /// <summary>Where the contents are.</summary>
    public SectorTable Table { get; }

    /// <inheritdoc/>
    public override long Length => _length;

    /// <summary>How many sectors the file has, a partial last one counted.</summary>
    public int SectorCount => (int)((_length + SectorSize - 1) / SectorSize);

    /// <summary>The content numbers of the sectors inside the file.</summary>
    public ReadOnlySpan<int> Ids => _ids.AsSpan(0, Math.Min(_ids.Length, SectorCount));

    /// <summary>The content number of a sector, 0 past the end of the file.</summary>
    public int IdAt(long sector) => sector < SectorCount && sector < _ids.Length ? _ids[sector] : SectorTable.Zero;

    /// <summary>Sets the length in bytes; what is cut off is not forgotten, but cannot be read.</summary>
    public void SetLength(long length) => _length = length;

    /// <summary>
    /// Makes what is cut off read as zeroes for good, as a file system does before a file grows over it again.
    /// </summary>
    public void ForgetCutOff()
    {
        int within = (int)(_length % SectorSize);
        if (within != 0 && SectorCount <= _ids.Length)
        {
            byte[] last = Table.Content(_ids[SectorCount - 1]).ToArray();
            last.AsSpan(within).Clear();
            _ids[SectorCount - 1] = Table.Intern(last);
        }

        if (SectorCount < _ids.Length)
            _ids.AsSpan(SectorCount).Clear();
    }

    /// <summary>Sets the content of one sector; does not change the length.</summary>
    public void SetId(int sector, int id)
    {
        Ensure(sector + 1);
        _ids[sector] = id;
    }

    /// <summary>Sets the contents of a run of sectors; does not change the length.</summary>
    public void SetIds(int sector, ReadOnlySpan<int> ids)
    {
        Ensure(sector + ids.Length);
        ids.CopyTo(_ids.AsSpan(sector));
    }

    /// <summary>Makes a run of sectors equal to those of <paramref name="other"/>, its length ignored.</summary>
    public void RestoreFrom(SectorImage other, int sector, int count)
    {
        Ensure(sector + count);
        int known = Math.Clamp(other._ids.Length - sector, 0, count);
        if (known > 0)
            other._ids.AsSpan(sector, known).CopyTo(_ids.AsSpan(sector));
        _ids.AsSpan(sector + known, count - known).Clear();
    }

    /// <summary>Makes this file equal to <paramref name="other"/>, which uses the same table.</summary>
    public void CopyFrom(SectorImage other)
    {
        _length = other._length;
        if (_ids.Length < other._ids.Length)
            _ids = new int[other._ids.Length];
        other._ids.CopyTo(_ids.AsSpan());
        _ids.AsSpan(other._ids.Length).Clear();
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int within = (int)(offset % SectorSize);
            int step = Math.Min(SectorSize - within, destination.Length);
            int inside = (int)Math.Clamp(_length - offset, 0, step);
            if (inside > 0)
                Table.Content(IdAt(offset / SectorSize)).Slice(within, inside).CopyTo(destination);
            destination[inside..step].Clear();
            destination = destination[step..];
            offset += step;
        }
    }

    /// <inheritdoc/>
    public override long SkipZeroes(long offset, long end)
    {
        int first = (int)Math.Min(offset / SectorSize, SectorCount);
        int last = (int)Math.Min((end + SectorSize - 1) / SectorSize, Ids.Length);
        if (first >= last)
            return end;
        int skipped = Ids[first..last].IndexOfAnyExcept(SectorTable.Zero);
        return skipped < 0 ? end : Math.Clamp((long)(first + skipped) * SectorSize, offset, end);
    }

    private void Ensure(int sectors)
    {
        if (_ids.Length < sectors)
            Array.Resize(ref _ids, Math.Max(sectors, _ids.Length * 3 / 2));
    }
}
