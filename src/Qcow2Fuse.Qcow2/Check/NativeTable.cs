// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Qcow2;

/// <summary>A table whose length an image decides, in native memory that is counted. It begins with zeroes.</summary>
internal sealed unsafe class NativeTable<T> : IDisposable
    where T : unmanaged
{
    private readonly MemoryCharge _charge;
    private readonly int _length;
    private T* _items;

    /// <exception cref="BlockException"><see cref="BlockErrorKind.NoMemory"/>.</exception>
    public NativeTable(int length, MemoryBudget memory, string name)
    {
        _length = length;
        _charge = memory.Take((long)length * sizeof(T), name, "the list of its tables");
        _items = (T*)NativeMemory.AllocZeroed((nuint)Math.Max(length, 1), (nuint)sizeof(T));
    }

    /// <summary>The entries.</summary>
    public Span<T> Span => new(_items, _items == null ? 0 : _length);

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(_items);
        _items = null;
        _charge.Dispose();
    }
}
