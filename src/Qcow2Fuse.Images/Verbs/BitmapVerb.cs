// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Images.Opening;

namespace Qcow2Fuse.Images.Verbs;

/// <summary>What can be done with a bitmap.</summary>
public enum BitmapAction
{
    /// <summary>Make it, recording.</summary>
    Add,

    /// <summary>Remove it.</summary>
    Remove,

    /// <summary>Make it empty.</summary>
    Clear,

    /// <summary>Let it record.</summary>
    Enable,

    /// <summary>Stop it from recording.</summary>
    Disable,

    /// <summary>Set in it what is set in another one.</summary>
    Merge,
}

/// <summary>One action.</summary>
/// <param name="Action">What to do.</param>
/// <param name="Source">The bitmap to merge; null for all other actions.</param>
public sealed record BitmapStep(BitmapAction Action, string? Source = null);

/// <summary>What <c>bitmap</c> is asked for.</summary>
/// <param name="Name">The bitmap.</param>
/// <param name="Steps">What to do with it, one after the other. What was done before one fails stays done.</param>
/// <param name="Granularity">Bytes per bit of a bitmap that is added; 0 for the default.</param>
public sealed record BitmapRequest(string Name, IReadOnlyList<BitmapStep> Steps, long Granularity = 0);

/// <summary><c>bitmap</c>: changes a persistent bitmap of an image.</summary>
public static class BitmapVerb
{
    /// <summary>Opens an image alone, without its backing file: bitmaps need none.</summary>
    /// <exception cref="BlockException">It cannot be opened, or not for writing.</exception>
    public static OpenedImage Open(string path, string? format, bool readOnly, ImageSecrets? secrets = null)
    {
        OpenedImage image = ImageFile.OpenChain(new ImageOpenOptions
        {
            Path = path,
            Format = format,
            ReadOnly = readOnly,
            NoBacking = true,
            Secrets = secrets,
        });
        if (readOnly || !image.ReadOnly)
            return image;
        ImageMessage reason = image.Messages[0];
        image.Dispose();
        throw new BlockException(BlockErrorKind.ReadOnly, reason.Text);
    }

    /// <summary>Takes the steps one after the other.</summary>
    /// <param name="device">The image.</param>
    /// <param name="name">Its name in messages.</param>
    /// <param name="source">The image that has the bitmaps to merge; null for the same.</param>
    /// <param name="request">What to do.</param>
    /// <exception cref="BlockException">A step fails, or the image holds no bitmaps.</exception>
    public static void Apply(BlockDevice device, string name, OpenedImage? source, BitmapRequest request)
    {
        IBitmaps image = BitmapsOf(device, name);
        foreach (BitmapStep step in request.Steps)
            Apply(image, source, request, step);
    }

    private static void Apply(IBitmaps image, OpenedImage? source, BitmapRequest request, BitmapStep step)
    {
        switch (step.Action)
        {
            case BitmapAction.Add:
                image.AddBitmap(request.Name, request.Granularity, enabled: true);
                break;
            case BitmapAction.Remove:
                image.RemoveBitmap(request.Name);
                break;
            case BitmapAction.Clear:
                image.ClearBitmap(request.Name);
                break;
            case BitmapAction.Enable:
                image.EnableBitmap(request.Name);
                break;
            case BitmapAction.Disable:
                image.DisableBitmap(request.Name);
                break;
            case BitmapAction.Merge:
                Merge(image, source, request, step.Source);
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(step), step.Action, "Unknown action.");
        }
    }

    private static void Merge(IBitmaps image, OpenedImage? source, BitmapRequest request, string? merged)
    {
        if (merged is null)
            throw new BlockException(BlockErrorKind.OutOfRange, "the bitmap to merge is missing");
        if (source is null)
            image.MergeBitmap(merged, request.Name);
        else
            image.MergeBitmap(BitmapsOf(source.Device, source.Device.Name), merged, request.Name);
    }

    private static IBitmaps BitmapsOf(BlockDevice device, string name) => device as IBitmaps
        ?? throw new BlockException(BlockErrorKind.NotSupported, $"{name}: only qcow2 images hold bitmaps");
}
