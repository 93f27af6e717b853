// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Core;

/// <summary>Whether the metadata was found wrong in a way that further changes could make worse.</summary>
/// <remarks>
/// The one place that sets the corrupt bit (specification section "Header", incompatible feature bit 1). Images of
/// version 2 have none: of them only this process knows.
/// </remarks>
internal sealed class CorruptMark(BlockDevice file, HeaderStore header, int version, bool isReadOnly)
{
    private readonly Lock _lock = new();
    private volatile bool _isFound;

    /// <summary>Whether such damage was found. The guest writes nothing any more then.</summary>
    public bool IsFound => _isFound;

    /// <summary>Refuses a write of the guest to an image that was found corrupt.</summary>
    public void ThrowIfFound()
    {
        if (_isFound)
            throw new BlockException(
                BlockErrorKind.Io, $"{file.Name}: the image was found corrupt and is not written any more");
    }

    /// <summary>
    /// Sets the corrupt bit once and refuses writes from now on, also where no request of a guest would be told. What
    /// was accepted before is still flushed. Called with or without the gate.
    /// </summary>
    public void Set()
    {
        lock (_lock)
        {
            if (_isFound || isReadOnly)
                return;
            _isFound = true;
            if (version < 3)
                return;
            header.Update(static header => header with { Incompatible = header.Incompatible | FeatureBits.Corrupt });
            file.Flush();
        }
    }

    /// <summary>Makes a change; damage that it meets is marked before the failure goes on.</summary>
    public void Guard(Action change)
    {
        try
        {
            change();
        }
        catch (BlockException e) when (e.IsSpreading)
        {
            Set();
            throw;
        }
    }
}
