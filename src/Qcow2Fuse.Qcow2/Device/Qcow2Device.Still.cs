// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Looking at the image file of a device that is in use.</summary>
public sealed partial class Qcow2Device
{
    /// <summary>
    /// Runs <paramref name="look"/>, such as a check, on the image file with everything written to it and nobody who
    /// changes it. Guest writes wait until it returns, and reads go on.
    /// </summary>
    /// <param name="look">Must neither change the file nor use the device.</param>
    /// <exception cref="BlockException">It cannot be flushed, or what <paramref name="look"/> throws.</exception>
    public T WhileStill<T>(Func<BlockDevice, T> look)
    {
        if (IsReadOnly)
            return look(_file);
        FlushOwn();
        lock (_resizeLock)
        {
            using (_gate.Enter())
            {
                BeginBitmapChange();
                try
                {
                    return WithFileHeld(look);
                }
                finally
                {
                    EndBitmapChange();
                }
            }
        }
    }

    private T WithFileHeld<T>(Func<BlockDevice, T> look)
    {
        _map.HoldWrites();
        try
        {
            _caches.FlushWhileHeld();
            using (_gate.Release())
            {
                return look(_file);
            }
        }
        finally
        {
            _map.ReleaseWrites();
        }
    }
}
