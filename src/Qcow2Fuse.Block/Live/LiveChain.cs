// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Block.Live;

/// <summary>Exchanges of layers below the top of an image that is used.</summary>
public static class LiveChain
{
    /// <summary>
    /// Exchanges what is below the top image while no request is under way, with a new map of the layers.
    /// </summary>
    /// <param name="live">The root of the image.</param>
    /// <param name="change">Gets what is below the top image, without a map, and returns what is to be there, or null.
    /// </param>
    /// <returns>What was below, which is the caller's where it is not below any more; or null.</returns>
    /// <exception cref="BlockException">
    /// The image cannot be on another one, or as <see cref="IRebasable.ChangeBacking"/>, or what
    /// <paramref name="change"/> throws. Nothing has changed.
    /// </exception>
    public static BlockDevice? ChangeBacking(LiveDevice live, Func<BlockDevice?, BlockDevice?> change)
    {
        BlockDevice? before = null;
        live.Exchange(top =>
        {
            if (FilterDevice.Unwrap(top) is not IRebasable image)
                throw new BlockException(BlockErrorKind.NotSupported, $"{top.Name}: cannot be on another image");
            before = BackingChain.WithoutMap(image.Backing);
            BlockDevice? mapped = BackingChain.Mapped(change(before));
            try
            {
                BlockDevice? left = image.ChangeBacking(mapped);
                BackingChain.DropMap(left);
            }
            catch
            {
                BackingChain.DropMap(mapped);
                throw;
            }

            return top;
        });
        return before;
    }
}
