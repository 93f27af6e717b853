// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Codecs;

/// <summary>
/// A context of a codec library in native memory. It is freed once, also where nobody disposes it.
/// </summary>
/// <param name="context">The context; not null.</param>
internal abstract unsafe class CodecContext(void* context) : IDisposable
{
    private void* _context = context;

    ~CodecContext() => FreeOnce();

    /// <summary>The context.</summary>
    /// <exception cref="ObjectDisposedException">It is freed.</exception>
    protected void* Context
    {
        get
        {
            ObjectDisposedException.ThrowIf(_context == null, this);
            return _context;
        }
    }

    public void Dispose()
    {
        FreeOnce();
        GC.SuppressFinalize(this);
    }

    /// <summary>Gives the context back to its library.</summary>
    protected abstract void Free(void* context);

    private void FreeOnce()
    {
        if (_context != null)
            Free(_context);
        _context = null;
    }
}
