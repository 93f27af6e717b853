// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Nodes;

/// <summary>Who has the file open, and for how long its node stays.</summary>
internal sealed partial class RawFileNode
{
    /// <inheritdoc/>
    public override int Open(FuseOpenRequest request, out FuseOpenResult result)
    {
        result = default;
        if (!TryCountUp())
            return -Errno.ESTALE;
        bool isOpen = false;
        BlockDevice? device = null;
        try
        {
            // Without the lock: it may take seconds, and others who come meanwhile share what it comes to.
            device = Source.Acquire();
            if (request.Writes && device.IsReadOnly)
                return -Errno.EROFS;
            _ = Pages.Know();
            lock (OpenLock)
                result = Flags(request);
            if (request.Writes && Changes.TryBegin() is not 0 and var error)
                return error;
            isOpen = true;
        }
        finally
        {
            // The kernel releases only what was opened.
            if (!isOpen)
                CountDown(device is not null);
        }

        _context.AwaitInvalidations();
        return 0;
    }

    /// <inheritdoc/>
    public override int Resume(ulong handle)
    {
        if (_context.IsBroken(handle))
            return -Errno.EIO;
        if (_isResumed)
            return 0;
        if (!TryCountUp())
            return -Errno.ESTALE;
        bool isKept = false;
        BlockDevice? device = null;
        try
        {
            device = Source.Acquire();
            _ = Pages.Know();
            lock (OpenLock)
            {
                // How many there are is not known, so the disk stays open for them to the end: once.
                isKept = !_isResumed;
                _isResumed = true;
                return 0;
            }
        }
        finally
        {
            if (!isKept)
                CountDown(device is not null);
        }
    }

    /// <inheritdoc/>
    public override void Release(ulong handle)
    {
        if (!_context.IsOwn(handle))
            return;
        if (TreeContext.Writes(handle))
            Pages.EndWriting();
        CountDown(isAcquired: true);
    }

    /// <summary>The name has gone. The node follows when the last user has closed it.</summary>
    public void Retire()
    {
        lock (OpenLock)
        {
            _isRetired = true;
            if (Pages.Opens == 0)
                Remove();
        }
    }

    /// <summary>
    /// Counts an opening before the disk is opened for it: a node that is retired meanwhile stays for its release.
    /// False for a node that has gone.
    /// </summary>
    private bool TryCountUp()
    {
        lock (OpenLock)
        {
            if (_isRetired && Pages.Opens == 0)
                return false;
            Pages.Opens++;
            return true;
        }
    }

    /// <summary>Undoes an opening, whatever it has come to.</summary>
    /// <param name="isAcquired">Whether the disk was opened for it.</param>
    private void CountDown(bool isAcquired)
    {
        try
        {
            if (isAcquired)
                Source.Release();
        }
        finally
        {
            lock (OpenLock)
            {
                Pages.Opens--;
                if (_isRetired && Pages.Opens == 0)
                    Remove();
            }
        }
    }

    private void Remove()
    {
        Image.RemoveView(Pages);
        _context.Nodes.Remove(this);
    }

    /// <summary>
    /// A view is never cached by reads and writes, so that it cannot differ from the whole disk. That file keeps its
    /// pages from one open to the next, unless the image was closed meanwhile.
    /// </summary>
    private FuseOpenResult Flags(FuseOpenRequest request)
    {
        if (IsView)
        {
            return new FuseOpenResult(
                _context.DiskHandle(isDirect: true, request.Writes),
                FuseOpenFlags.DirectIO | FuseOpenFlags.ParallelDirectWrites);
        }

        FuseOpenResult result = FuseOpenResult.ForDisk(
            request, _context.DiskHandle(request.IsDirect, request.Writes));
        int opening = Image.Openings;
        if (opening != _seenOpening)
            result = result with { Flags = result.Flags & ~FuseOpenFlags.KeepCache };
        _seenOpening = opening;
        return result;
    }
}
