// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Testing.Fuse;

/// <summary>
/// A file of fixed size in native memory, alone in a directory or as the root itself, with holes in pages of 4 KiB.
/// Like a block device it ignores O_TRUNC and refuses other sizes.
/// </summary>
public sealed unsafe class MemoryFileSystem : IFuseFileSystem, IDisposable
{
    /// <summary>Name of the file in the directory.</summary>
    public const string FileName = "disk.raw";

    private const ulong Root = 1;
    private const int Page = 4096;

    private readonly Lock _lock = new();
    private readonly long _size;
    private readonly bool[] _present;
    private readonly ulong _file;
    private readonly FuseTime _start = FuseTime.Now;
    private readonly uint _uid;

    private byte* _memory;
    private FuseTime _modified;

    /// <param name="size">Bytes, a multiple of 4096.</param>
    /// <param name="rootIsFile">Whether node 1 is the file itself.</param>
    /// <param name="uid">Owner of all nodes.</param>
    public MemoryFileSystem(long size, bool rootIsFile = false, uint uid = 0)
    {
        if (size <= 0 || size % Page != 0)
            throw new ArgumentOutOfRangeException(nameof(size), size, "not whole pages");
        _size = size;
        _uid = uid;
        _file = rootIsFile ? Root : Root + 1;
        _present = new bool[size / Page];
        _memory = (byte*)NativeMemory.AllocZeroed((nuint)size);
        _modified = _start;
    }

    /// <summary>Fsync calls so far.</summary>
    public int Syncs { get; private set; }

    /// <summary>Writes so far that had to be durable.</summary>
    public int SynchronousWrites { get; private set; }

    /// <summary>Open calls minus release calls.</summary>
    public int OpenFiles { get; private set; }

    /// <inheritdoc/>
    public int Lookup(ulong parent, ReadOnlySpan<byte> name, out FuseAttributes attributes)
    {
        attributes = default;
        bool found = parent == Root && _file != Root && name.SequenceEqual("disk.raw"u8);
        return found ? GetAttributes(_file, out attributes) : -Errno.ENOENT;
    }

    /// <inheritdoc/>
    public int GetAttributes(ulong node, out FuseAttributes attributes)
    {
        attributes = default;
        if (node != _file && node != Root)
            return -Errno.ENOENT;

        bool file = node == _file;
        attributes = new FuseAttributes
        {
            Node = node,
            Size = file ? _size : 0,
            AllocatedBytes = file ? _present.LongCount(present => present) * Page : 0,
            Mode = file ? FuseAttributes.RegularFile | 0x180 : FuseAttributes.Directory | 0x1C0,
            Links = file ? 1u : 2u,
            Uid = _uid,
            BlockSize = Page,
            Accessed = _start,
            Modified = _modified,
            Changed = _modified,
        };
        return 0;
    }

    /// <inheritdoc/>
    public int SetAttributes(ulong node, in FuseAttributeChange change, out FuseAttributes attributes)
    {
        int result = GetAttributes(node, out attributes);
        bool resizes = change.Size is { } size && size != attributes.Size;
        if (result == 0 && resizes)
            return -Errno.EPERM;
        if (change.Modified is { } modified)
            _modified = modified;
        return result < 0 ? result : GetAttributes(node, out attributes);
    }

    /// <inheritdoc/>
    public int Open(ulong node, FuseOpenRequest request, out FuseOpenResult result)
    {
        result = FuseOpenResult.ForDisk(request, handle: 7);
        if (node != _file)
            return node == Root ? -Errno.EISDIR : -Errno.ENOENT;
        lock (_lock)
            OpenFiles++;
        return 0;
    }

    /// <inheritdoc/>
    public void Release(ulong node, ulong handle)
    {
        lock (_lock)
            OpenFiles--;
    }

    /// <inheritdoc/>
    public int Read(ulong node, ulong handle, long offset, Span<byte> destination)
    {
        if (node != _file)
            return -Errno.EISDIR;
        int length = (int)Math.Clamp(_size - offset, 0, destination.Length);
        new ReadOnlySpan<byte>(_memory + offset, length).CopyTo(destination);
        return length;
    }

    /// <inheritdoc/>
    public int Write(ulong node, ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind)
    {
        if (node != _file)
            return -Errno.EISDIR;
        if (offset >= _size)
            return source.IsEmpty ? 0 : -Errno.ENOSPC;
        int length = (int)Math.Min(_size - offset, source.Length);
        source[..length].CopyTo(new Span<byte>(_memory + offset, length));
        MarkPages(offset, length, present: true);
        _modified = FuseTime.Now;
        if ((kind & FuseWriteKind.Synchronous) == FuseWriteKind.Synchronous)
        {
            lock (_lock)
                SynchronousWrites++;
        }

        return length;
    }

    /// <inheritdoc/>
    public int Fsync(ulong node, ulong handle, bool dataOnly)
    {
        lock (_lock)
            Syncs++;
        return 0;
    }

    /// <inheritdoc/>
    public int Allocate(ulong node, ulong handle, FuseAllocateMode mode, long offset, long length)
    {
        if (offset + length > _size && !mode.HasFlag(FuseAllocateMode.KeepSize))
            return -Errno.EFBIG;
        length = Math.Clamp(_size - offset, 0, length);
        switch (mode)
        {
            case FuseAllocateMode.Allocate:
            case FuseAllocateMode.KeepSize:
                MarkPages(offset, length, present: true);
                return 0;
            case FuseAllocateMode.PunchHole | FuseAllocateMode.KeepSize:
            case FuseAllocateMode.ZeroRange:
            case FuseAllocateMode.ZeroRange | FuseAllocateMode.KeepSize:
                NativeMemory.Clear(_memory + offset, (nuint)length);
                if (mode.HasFlag(FuseAllocateMode.PunchHole))
                    PunchWholePages(offset, length);
                return 0;
            default:
                return -Errno.EOPNOTSUPP;
        }
    }

    /// <inheritdoc/>
    public long Seek(ulong node, ulong handle, long offset, FuseSeekKind kind)
    {
        if (offset >= _size)
            return -Errno.ENXIO;
        long page = offset / Page;
        while (page < _present.Length && _present[page] != (kind == FuseSeekKind.Data))
            page++;
        if (page < _present.Length)
            return Math.Max(offset, page * Page);
        return kind == FuseSeekKind.Hole ? _size : -Errno.ENXIO;
    }

    /// <inheritdoc/>
    public long CopyRange(in FuseFilePlace source, in FuseFilePlace destination, long length)
    {
        if (source.Node != _file || destination.Node != _file)
            return -Errno.EISDIR;
        length = Math.Clamp(_size - Math.Max(source.Offset, destination.Offset), 0, length);
        if (Math.Abs(source.Offset - destination.Offset) < length)
            return -Errno.EINVAL;
        return Write(
            _file, destination.Handle, destination.Offset,
            new ReadOnlySpan<byte>(_memory + source.Offset, (int)length), FuseWriteKind.Plain);
    }

    /// <inheritdoc/>
    public int GetStatistics(ulong node, out FuseStatistics statistics)
    {
        statistics = new FuseStatistics { BlockSize = Page, Blocks = (ulong)_present.Length, Nodes = 2 };
        return 0;
    }

    /// <inheritdoc/>
    public int ReadDirectory(ulong node, ulong handle, long offset, ref FuseDirectoryWriter entries)
    {
        if (offset <= 0 && !entries.Add(Root, FuseAttributes.Directory, "."u8, 1))
            return 0;
        if (offset <= 1 && !entries.Add(Root, FuseAttributes.Directory, ".."u8, 2))
            return 0;
        if (offset <= 2)
            entries.Add(_file, FuseAttributes.RegularFile, "disk.raw"u8, 3);
        return 0;
    }

    /// <inheritdoc/>
    public int GetExtendedAttribute(ulong node, ReadOnlySpan<byte> name, Span<byte> value)
    {
        if (!name.SequenceEqual("user.test"u8))
            return -Errno.ENODATA;
        ReadOnlySpan<byte> text = "value"u8;
        text.TryCopyTo(value);
        return text.Length;
    }

    /// <inheritdoc/>
    public int ListExtendedAttributes(ulong node, Span<byte> names)
    {
        ReadOnlySpan<byte> list = "user.test\0"u8;
        list.TryCopyTo(names);
        return list.Length;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(_memory);
        _memory = null;
    }

    private void MarkPages(long offset, long length, bool present)
    {
        for (long page = offset / Page; page * Page < offset + length; page++)
            _present[page] = present;
    }

    private void PunchWholePages(long offset, long length)
    {
        long first = (offset + Page - 1) / Page;
        long end = (offset + length) / Page;
        if (end > first)
            MarkPages(first * Page, (end - first) * Page, present: false);
    }
}
