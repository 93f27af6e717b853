// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Images.Verbs;

/// <summary>One action of <c>bitmap</c>, such as <c>--add</c>.</summary>
/// <param name="Action">As on the command line.</param>
/// <param name="Source">The bitmap to merge, for <c>--merge</c>.</param>
public sealed record BitmapStep(string Action, string? Source = null);

/// <summary>What <c>bitmap</c> is asked for.</summary>
/// <param name="Name">The bitmap.</param>
/// <param name="Steps">What to do with it, one after the other. What was done before one fails stays done.</param>
/// <param name="Granularity">Bytes per bit of a bitmap that is added; 0 for the default.</param>
public sealed record BitmapRequest(string Name, IReadOnlyList<BitmapStep> Steps, long Granularity = 0);

/// <summary><c>bitmap</c>: changes a persistent bitmap of an image.</summary>
public static class BitmapVerb
{
    /// <summary>The action with a bitmap to merge.</summary>
    public const string Merge = "--merge";

    /// <summary>The action that makes a bitmap.</summary>
    public const string Add = "--add";

    /// <summary>The actions without a value, each for a bitmap of an open image.</summary>
    private static readonly Dictionary<string, Action<IBitmaps, BitmapRequest>> Actions = new(StringComparer.Ordinal)
    {
        [Add] = static (image, request) => image.AddBitmap(request.Name, request.Granularity, enabled: true),
        ["--remove"] = static (image, request) => image.RemoveBitmap(request.Name),
        ["--clear"] = static (image, request) => image.ClearBitmap(request.Name),
        ["--enable"] = static (image, request) => image.EnableBitmap(request.Name),
        ["--disable"] = static (image, request) => image.DisableBitmap(request.Name),
    };

    /// <summary>Whether a word is an action without a value.</summary>
    public static bool IsAction(string word) => Actions.ContainsKey(word);

    /// <summary>Opens an image alone, without its backing file: bitmaps need none.</summary>
    /// <exception cref="BlockException">It cannot be opened, or not for writing.</exception>
    public static OpenedImage Open(string path, string? format, bool readOnly, ImageSecrets? secrets = null)
    {
        OpenedImage image = new ImageOpener(new FileStorage(), ImageFormats.Openers).Open(new ImageOpenOptions
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
        foreach ((string action, string? merged) in request.Steps)
        {
            if (action is not Merge)
            {
                if (!Actions.TryGetValue(action, out Action<IBitmaps, BitmapRequest>? change))
                    throw Invalid($"unknown action {Printable.Text(action)}");
                change(image, request);
            }
            else if (merged is null)
            {
                throw Invalid("--merge needs the name of a bitmap");
            }
            else if (source is null)
            {
                image.MergeBitmap(merged, request.Name);
            }
            else
            {
                image.MergeBitmap(BitmapsOf(source.Device, source.Device.Name), merged, request.Name);
            }
        }
    }

    private static IBitmaps BitmapsOf(BlockDevice device, string name) => device as IBitmaps
        ?? throw new BlockException(BlockErrorKind.NotSupported, $"{name}: only qcow2 images hold bitmaps");

    private static BlockException Invalid(string message) => new(BlockErrorKind.OutOfRange, message);
}
