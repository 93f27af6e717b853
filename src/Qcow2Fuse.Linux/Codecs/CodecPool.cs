// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Codecs;

/// <summary>Keeps up to 16 codec contexts for reuse, without a lock.</summary>
internal sealed class CodecPool<T>(Func<T> create)
    where T : class, IDisposable
{
    private const int KeptMax = 16;

    private readonly T?[] _kept = new T?[KeptMax];

    public T Rent()
    {
        foreach (ref T? slot in _kept.AsSpan())
        {
            if (slot is not null && Interlocked.Exchange(ref slot, null) is { } context)
                return context;
        }

        return create();
    }

    public void Return(T context)
    {
        foreach (ref T? slot in _kept.AsSpan())
        {
            if (slot is null && Interlocked.CompareExchange(ref slot, context, null) is null)
                return;
        }

        context.Dispose();
    }

    /// <summary>Disposes all contexts that are kept.</summary>
    public void Clear()
    {
        foreach (ref T? slot in _kept.AsSpan())
            Interlocked.Exchange(ref slot, null)?.Dispose();
    }
}
