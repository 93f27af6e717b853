// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Capabilities;

/// <summary>An open image whose file can be looked at while the image is in use.</summary>
public interface IStillFile
{
    /// <summary>
    /// Runs <paramref name="look"/>, such as a check, on the image file with everything written to it and nobody who
    /// changes it. Guest writes wait until it returns, and reads go on.
    /// </summary>
    /// <param name="look">Must neither change the file nor use the device.</param>
    /// <exception cref="BlockException">It cannot be flushed, or what <paramref name="look"/> throws.</exception>
    T WhileStill<T>(Func<BlockDevice, T> look);
}
