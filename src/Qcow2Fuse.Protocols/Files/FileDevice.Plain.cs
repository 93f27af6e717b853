// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Ranges;

namespace Qcow2Fuse.Protocols.Files;

/// <summary>Reads and writes that others do on the descriptor.</summary>
public sealed partial class FileDevice
{
    /// <inheritdoc/>
    /// <remarks>Nothing that makes the file longer, and with O_DIRECT nothing that is not aligned.</remarks>
    public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
    {
        run = default;
        if (offset < 0 || length <= 0 || offset > Length - length || (isWrite && IsReadOnly))
            return false;
        RangeLocks.Holder blocks = default;
        if (_direct is not null && !_direct.TryHold(offset, length, isWrite, out blocks))
            return false;
        run = new PlainRun { Descriptor = _fd, Offset = offset, IsCached = _direct is null, Blocks = blocks };
        return true;
    }

    /// <inheritdoc/>
    public override void EndPlain(in PlainRun run) => run.Blocks.Dispose();
}
