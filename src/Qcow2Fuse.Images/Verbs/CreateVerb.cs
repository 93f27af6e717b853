// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Protocols.Schemes;
using Qcow2Fuse.Qcow2.Creation;

namespace Qcow2Fuse.Images.Verbs;

/// <summary>What <c>create</c> is asked for.</summary>
/// <param name="Path">The image to make; an existing file is replaced.</param>
/// <param name="Size">Size of the disk in bytes; null to take the backing file's.</param>
public sealed record CreateRequest(string Path, long? Size = null)
{
    /// <summary>Name of the backing file as the image is to hold it; or null.</summary>
    public string? BackingFile { get; init; }

    /// <summary>The name of the backing file's format.</summary>
    public string? BackingFormat { get; init; }

    /// <summary>Do not look at a backing file whose size is not needed.</summary>
    public bool IsUnchecked { get; init; }

    /// <summary>What the image is to be like, for a size in bytes; null makes a raw one.</summary>
    public Func<long, Qcow2CreateOptions>? Options { get; init; }
}

/// <summary><c>create</c>: makes an image.</summary>
public static class CreateVerb
{
    private const int SectorSize = 512;

    /// <summary>Makes the image. What was at its path is gone then; of a failure nothing is left.</summary>
    /// <returns>The size that was asked for; the disk has it in whole sectors.</returns>
    /// <exception cref="BlockException">There is no size, or the image cannot be made.</exception>
    public static long Run(CreateRequest request)
    {
        long? backingSize = request.BackingFile is null || (request.IsUnchecked && request.Size is not null)
            ? null
            : SizeOfBacking(request);
        long size = request.Size ?? backingSize
            ?? throw new BlockException(BlockErrorKind.OutOfRange, $"{request.Path}: the size of the image is missing");
        if (size > long.MaxValue - SectorSize)
            throw new BlockException(BlockErrorKind.OutOfRange, $"{request.Path}: the size is too large");

        // Sizes in whole sectors are what every reader of qcow2 can represent.
        long rounded = (size + SectorSize - 1) / SectorSize * SectorSize;
        Qcow2CreateOptions? options = request.Options?.Invoke(rounded);
        INewFile made = StorageSchemes.Of(request.Path).Create(request.Path);
        using BlockDevice file = made.Device;
        try
        {
            if (options is null)
                file.Resize(rounded);
            else
                Qcow2Creator.Create(file, options);
            file.Flush();
        }
        catch (BlockException)
        {
            // Half an image would only be in the way of the next attempt.
            made.Abandon();
            throw;
        }

        return size;
    }

    private static long SizeOfBacking(CreateRequest request)
    {
        string directory = Path.GetDirectoryName(request.Path) ?? "/";
        using BlockDevice file =
            ImageFile.Open(Path.Combine(directory, request.BackingFile!), ImageFileUse.LookAnyway);
        return ImageFormats.Named(request.BackingFormat!).SizeOf(file);
    }
}
