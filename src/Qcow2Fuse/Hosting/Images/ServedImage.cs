// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Live;
using Qcow2Fuse.Hosting.Restart;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Protocols.Schemes;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>One image while it is mounted: opened before the mount, flushed and closed after it.</summary>
internal sealed class ServedImage : IDisposable
{
    private readonly OpenedImage _image;

    private ServedImage(
        OpenedImage image, MountKeeper? keeper, string path, IReadOnlyList<ImageMessage> messages)
    {
        _image = image;
        Messages = messages;
        Live = new LiveDevice(image.Device);
        Device = keeper?.Watch(Live) ?? Live;
        ImagePath = path;
        FileName = RawFileName.For(path);
    }

    /// <summary>Absolute path of the image.</summary>
    public string ImagePath { get; }

    /// <summary>Name of the raw file in the mount.</summary>
    public string FileName { get; }

    /// <summary>Where what is below the guest's disk can be exchanged while it is used.</summary>
    public LiveDevice Live { get; }

    /// <summary>What the guest sees as its disk.</summary>
    public BlockDevice Device { get; }

    /// <summary>The image and the backing files below it, the image first.</summary>
    public IReadOnlyList<ImageLayer> Layers => _image.Layers;

    /// <summary>What the user should know although the image was opened.</summary>
    public IReadOnlyList<ImageMessage> Messages { get; }

    /// <summary>Opens the image that the user named, with all the files it needs.</summary>
    /// <exception cref="BlockException">See <see cref="ImageOpener.Open"/>.</exception>
    public static ServedImage Open(MountSettings settings, string path, MountKeeper? keeper) =>
        Open(settings, settings.ToOpenOptions(path), StorageSchemes.Of(path).Opener(keeper?.Files), keeper);

    /// <summary>Opens an image of a directory with all the files it needs.</summary>
    /// <exception cref="BlockException">See <see cref="ImageOpener.Open"/>.</exception>
    public static ServedImage Open(MountSettings settings, string path, FileStorage files) =>
        Open(settings, settings.ToOpenOptions(path), files);

    /// <summary>
    /// Opens an image of a directory, read-only where it cannot be written. What its user should know is logged.
    /// </summary>
    /// <exception cref="BlockException">See <see cref="ImageOpener.Open"/>.</exception>
    public static ServedImage OpenToServe(MountSettings settings, string path, FileStorage files, ILogger logger)
    {
        ServedImage image;
        try
        {
            image = Open(settings, path, files);
        }
        catch (BlockException exception) when (exception.Kind == BlockErrorKind.ReadOnly && !settings.ReadOnly)
        {
            HostLog.OpenMessage(logger, $"{exception.Message}; it is opened read-only");
            image = Open(settings, settings.ToOpenOptions(path) with { ReadOnly = true }, files);
        }

        foreach (ImageMessage message in image.Messages)
            HostLog.OpenMessage(logger, message.Text);
        return image;
    }

    /// <summary>Opens the image for a short look, whoever else may be writing to it.</summary>
    /// <exception cref="BlockException">See <see cref="ImageOpener.Open"/>.</exception>
    public static ServedImage OpenToLook(MountSettings settings, string path, FileStorage files) =>
        Open(settings, settings.ToOpenOptions(path) with { ReadOnly = true, ForceShare = true }, files);

    /// <summary>Holds on to the file of the image itself.</summary>
    /// <exception cref="BlockException">There is no /proc.</exception>
    public FileAnchor Anchor() => FileAnchor.Of((FileDevice)_image.File);

    /// <summary>Makes everything durable that was written.</summary>
    /// <exception cref="BlockException">Something is lost.</exception>
    public void Flush()
    {
        if (!Device.IsReadOnly)
            Device.Flush();
    }

    /// <summary>Closes the image and its files.</summary>
    public void Dispose() => Device.Dispose();

    private static ServedImage Open(
        MountSettings settings, ImageOpenOptions options, IStorageOpener files, MountKeeper? keeper = null)
    {
        using ImageSecrets? secrets = SecretReader.Read(settings.Secrets, settings.UnlockTime);
        OptionalDirectStorage? optional =
            settings is { GivenCache: null, PrefersDirect: true } ? new OptionalDirectStorage(files) : null;
        OpenedImage image =
            new ImageOpener(optional ?? files, ImageFormats.Openers)
                .Open(options with { Secrets = secrets });
        return new ServedImage(
            image, keeper, options.Path,
            [.. image.Messages, .. optional?.Messages ?? []]);
    }
}
