// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Memory;

/// <summary>A table whose length an image decides, in native memory that is counted. It begins with zeroes.</summary>
public sealed unsafe class NativeTable<T> : IDisposable
    where T : unmanaged
{
    private readonly MemoryCharge _charge;
    private readonly int _length;
    private T* _items;

    /// <summary>A table of zeroes.</summary>
    /// <param name="length">Its entries.</param>
    /// <param name="memory">What it takes is taken of it.</param>
    /// <param name="name">The image that needs it.</param>
    /// <param name="what">What it is for, as <see cref="MemoryBudget.Take"/> says it.</param>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>.</exception>
    public NativeTable(int length, MemoryBudget memory, string name, string what)
    {
        _length = length;
        _charge = memory.Take((long)length * sizeof(T), name, what);
        try
        {
            _items = (T*)NativeMemory.AllocZeroed((nuint)Math.Max(length, 1), (nuint)sizeof(T));
        }
        catch
        {
            _charge.Dispose();
            throw;
        }
    }

    /// <summary>The entries; none once it is disposed.</summary>
    public Span<T> Span => new(_items, _items == null ? 0 : _length);

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(_items);
        _items = null;
        _charge.Dispose();
    }
}
