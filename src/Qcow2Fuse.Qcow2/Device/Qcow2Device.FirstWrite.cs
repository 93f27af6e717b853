// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>
/// What happens before the guest writes for the first time. Until then not a byte of the file changes.
/// </summary>
public sealed partial class Qcow2Device
{
    private bool _guestWrites;
    private bool _setDirty;

    /// <summary>
    /// Makes the file ready to be written by the guest: all metadata is known to the overlap guard, bitmaps that record
    /// are marked in use, autoclear bits that vouch for what nobody here keeps are cleared (specification section
    /// "Header", autoclear_features), and an image with lazy refcounts is marked dirty. Durable on return.
    /// </summary>
    private void PrepareFirstWrite()
    {
        try
        {
            using (_gate.Enter())
            {
                BeginBitmapChange();
                try
                {
                    if (!_guestWrites)
                        PrepareAlone();
                    _guestWrites = true;
                    _caches.EnsureGuard();
                }
                finally
                {
                    EndBitmapChange();
                }
            }
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            MarkCorrupt();
            throw;
        }
    }

    private void PrepareAlone()
    {
        _caches.ThrowIfFailed();
        ClearAutoclear();
        _caches.EnsureGuard();
        MarkInUse(static bitmap => bitmap.IsEnabled || bitmap.IsMarked);
        if ((_header.Current.Compatible & FeatureBits.LazyRefcounts) == 0)
            return;
        _header.Update(static header => header with { Incompatible = header.Incompatible | FeatureBits.Dirty });
        _caches.Barrier();
        _setDirty = true;
        _caches.BeginLazy();
    }
}
