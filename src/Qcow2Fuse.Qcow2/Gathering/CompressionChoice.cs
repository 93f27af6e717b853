// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Codecs;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Gathering;

/// <summary>Whether an image can have its writes compressed in the way that is wanted.</summary>
internal static class CompressionChoice
{
    /// <summary>Refuses what cannot be compressed, and loads the library that compresses.</summary>
    /// <exception cref="BlockException"><see cref="BlockErrorKind.NotSupported"/>.</exception>
    public static void Check(BlockDevice file, Qcow2Header header, CompressedWrites wanted)
    {
        if (header.HasExternalData)
            throw new BlockException(BlockErrorKind.NotSupported,
                $"{file.Name}: an image with an external data file has no compressed clusters");
        if (header.EncryptionMethod != 0)
            throw new BlockException(BlockErrorKind.NotSupported,
                $"{file.Name}: an encrypted image has no compressed clusters");
        bool isZstd = header.Compression == CompressionType.Zstd;
        if (wanted == (isZstd ? CompressedWrites.Zlib : CompressedWrites.Zstd))
        {
            (string has, string other) = isZstd ? ("zstd", "zlib") : ("zlib", "zstd");
            throw new BlockException(BlockErrorKind.NotSupported,
                $"{file.Name}: the image compresses with {has}, not {other}",
                cause: new(FailureCode.CompressionDiffers) { Name = other });
        }

        try
        {
            ClusterCodecs.Preload(isZstd ? CompressionKind.Zstd : CompressionKind.Deflate);
        }
        catch (CodecUnavailableException e)
        {
            throw new BlockException(BlockErrorKind.NotSupported, $"{file.Name}: {e.Message}", e,
                new(FailureCode.PackageMissing) { Name = e.Package });
        }
    }
}
