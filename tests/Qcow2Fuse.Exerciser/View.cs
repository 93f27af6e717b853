// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Exerciser;

/// <summary>One file that shows a range of the disk, with a buffered and a direct descriptor and a mapping.</summary>
internal sealed unsafe class View : IDisposable
{
    private readonly int _buffered;
    private readonly int _direct;
    private readonly byte* _mapped;
    private long _dirtyStart = long.MaxValue;
    private long _dirtyEnd;

    private View(string path, int number, long start, long length)
    {
        Path = path;
        Number = number;
        Start = start;
        Length = length;
        _buffered = Native.Open(path, 0);
        _direct = Native.Open(path, Native.OpenDirect);
        _mapped = Native.Map(_buffered, length);
    }

    public string Path { get; }

    /// <summary>Its position among the views.</summary>
    public int Number { get; }

    /// <summary>Where it begins on the disk.</summary>
    public long Start { get; }

    public long Length { get; }

    /// <summary>Parses <c>PATH@START</c>; without a start the file is the whole disk.</summary>
    public static View Open(string argument, int number)
    {
        int at = argument.LastIndexOf('@');
        string path = at < 0 ? argument : argument[..at];
        long start = at < 0 ? 0 : long.Parse(argument.AsSpan(at + 1), CultureInfo.InvariantCulture);
        return new View(path, number, start, new FileInfo(path).Length);
    }

    public void Read(Access access, Span<byte> target, long offset)
    {
        if (access != Access.Mapped)
        {
            BeforeCall(access);
            Native.Read(Descriptor(access), target, offset);
            return;
        }

        new ReadOnlySpan<byte>(_mapped + offset, target.Length).CopyTo(target);
    }

    public void Write(Access access, ReadOnlySpan<byte> source, long offset)
    {
        if (access != Access.Mapped)
        {
            BeforeCall(access);
            Native.Write(Descriptor(access), source, offset);
            return;
        }

        source.CopyTo(new Span<byte>(_mapped + offset, source.Length));
        _dirtyStart = Math.Min(_dirtyStart, offset);
        _dirtyEnd = Math.Max(_dirtyEnd, offset + source.Length);
    }

    public void Allocate(int mode, long offset, long length)
    {
        Settle();
        Native.Allocate(_buffered, mode, offset, length);
    }

    /// <summary>Writes back what was changed in mapped memory.</summary>
    public void Settle()
    {
        if (_dirtyEnd > _dirtyStart)
            Native.SyncMapped(_mapped + _dirtyStart, _dirtyEnd - _dirtyStart);
        (_dirtyStart, _dirtyEnd) = (long.MaxValue, 0);
    }

    /// <summary>Makes everything durable; other views see it from then on.</summary>
    public void Sync()
    {
        Settle();
        Native.Sync(_buffered);
    }

    public void Dispose()
    {
        Native.Unmap(_mapped, Length);
        Native.Close(_direct);
        Native.Close(_buffered);
    }

    private int Descriptor(Access access) => access == Access.Direct ? _direct : _buffered;

    /// <summary>
    /// Buffered calls on the whole disk share their pages with the mapping. All others pass the page cache, and mapped
    /// memory is promised to be in step with them after msync(2) only.
    /// </summary>
    private void BeforeCall(Access access)
    {
        if (access == Access.Direct || Number > 0)
            Settle();
    }
}

/// <summary>How a range is read or written.</summary>
internal enum Access
{
    Buffered,
    Direct,
    Mapped,
}
