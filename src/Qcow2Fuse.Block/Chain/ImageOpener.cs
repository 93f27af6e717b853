// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>Opens an image by name together with everything it needs: data file and backing chain.</summary>
/// <param name="storage">Opens the files and keeps the policy for the names that images hold.</param>
/// <param name="formats">The known formats; those with a magic are recognised in this order.</param>
public sealed class ImageOpener(IStorageOpener storage, IReadOnlyList<IImageFormat> formats)
{
    /// <summary>
    /// Opens the image. All or nothing: on an exception every file is closed again. An image that was to be written
    /// but cannot be is opened read-only, and <see cref="OpenedImage.Messages"/> says why.
    /// </summary>
    /// <exception cref="BlockException">A file is missing, locked, refused by the policy, not an image, or uses
    /// something not supported; the message begins with the file's name.</exception>
    public OpenedImage Open(ImageOpenOptions options)
    {
        if (options is { ForceShare: true, ReadOnly: false })
        {
            throw new BlockException(
                BlockErrorKind.NotSupported,
                $"{Printable.Text(options.Path)}: force_share is for looking only",
                cause: FailureCode.LookNeedsReadOnly);
        }

        return new ChainOpening(storage, formats, options).Run();
    }
}
