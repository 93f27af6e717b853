// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Fuse.Abi;

/// <summary>Fills a READDIR reply with struct fuse_dirent records, each padded to 8 bytes.</summary>
public ref struct FuseDirectoryWriter
{
    private const int RecordHeader = 24;

    private readonly Span<byte> _buffer;

    /// <summary>Fills <paramref name="buffer"/> from its start.</summary>
    public FuseDirectoryWriter(Span<byte> buffer)
    {
        _buffer = buffer;
    }

    /// <summary>Bytes used so far.</summary>
    public int Length { get; private set; }

    /// <summary>Bytes that are left for further records.</summary>
    public readonly int Left => _buffer.Length - Length;

    /// <summary>
    /// Adds an entry; false where it no longer fits. <paramref name="mode"/> gives the kind (S_IFMT), and
    /// <paramref name="nextOffset"/> (not 0) is where reading goes on behind this entry.
    /// </summary>
    public bool Add(ulong node, uint mode, ReadOnlySpan<byte> name, long nextOffset)
    {
        int size = (RecordHeader + name.Length + 7) & ~7;
        if (size > _buffer.Length - Length)
            return false;

        Span<byte> record = _buffer.Slice(Length, size);
        record.Clear();
        MemoryMarshal.Write(record, node);
        MemoryMarshal.Write(record[8..], nextOffset);
        MemoryMarshal.Write(record[16..], (uint)name.Length);
        MemoryMarshal.Write(record[20..], (mode & FuseAttributes.KindMask) >> 12);
        name.CopyTo(record[RecordHeader..]);
        Length += size;
        return true;
    }
}
