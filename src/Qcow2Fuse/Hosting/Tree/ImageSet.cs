// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Partitions;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Restart;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>The images of a mount: one, or those of a directory.</summary>
internal abstract class ImageSet : IDisposable
{
    /// <summary>Absolute path of the image or the directory.</summary>
    public abstract string Path { get; }

    /// <summary>Whether nothing can be written, whatever was asked for.</summary>
    public abstract bool IsReadOnly { get; }

    /// <summary>What is mounted, for people: <c>disk.qcow2 (64 MiB)</c>.</summary>
    public abstract string Description { get; }

    /// <summary>What the user should know although the source was opened.</summary>
    public virtual IReadOnlyList<ImageMessage> Messages => [];

    /// <summary>The images as they are now, in the order of their names.</summary>
    public abstract IReadOnlyList<ImageNodes> Current();

    /// <summary>
    /// The images as <see cref="Current"/>, for whoever takes his time: each is looked for when it is asked for, behind
    /// the name of the last, and none is kept that has gone.
    /// </summary>
    public IEnumerable<ImageNodes> OneByOne()
    {
        string? last = null;
        while (Behind(last) is { } image)
        {
            last = image.Name;
            yield return image;
        }
    }

    /// <summary>The first image of all for null, or the first whose name is behind another; null where there is none.
    /// </summary>
    protected abstract ImageNodes? Behind(string? name);

    /// <summary>Whether images come and go, and are opened when they are used.</summary>
    public virtual bool IsDirectory => false;

    /// <summary>Whether to find out which images there are takes more than some milliseconds.</summary>
    public virtual bool LooksLong => false;

    /// <summary>The images that may have a file of this name; a few of them, however many there are.</summary>
    public virtual IEnumerable<ImageNodes> WithFile(string name) => Current();

    /// <summary>The image of a name, as the hidden directory has it; null for none.</summary>
    public virtual ImageNodes? WithName(string name) =>
        Current().FirstOrDefault(image => string.Equals(image.Name, name, StringComparison.Ordinal));

    /// <summary>
    /// Opens what <see cref="MountSettings.Source"/> names. An image is opened at once, so that a failure leaves no
    /// mount behind; those of a directory when they are used.
    /// </summary>
    /// <exception cref="BlockException">The image cannot be opened.</exception>
    public static ImageSet Open(MountSettings settings, string path, ILogger logger, MountKeeper? keeper = null) =>
        keeper is null && LinuxPath.IsDirectory(path)
            ? new ImageDirectory(settings, path, logger)
            : new SingleImage(settings, ServedImage.Open(settings, path, keeper), keeper?.NewerRanges, logger);

    /// <summary>
    /// Makes the nodes of the images and the root above them; on a mount point that is a file, the disk is the root.
    /// </summary>
    /// <exception cref="CommandException">The source cannot be shown there.</exception>
    public abstract void CreateNodes(TreeContext context, bool rootIsFile);

    /// <summary>Makes everything durable that was written.</summary>
    /// <exception cref="BlockException">Something is lost.</exception>
    public abstract void Flush();

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Closes all images.</summary>
    protected abstract void Dispose(bool disposing);
}

/// <summary>One image, open from before the mount to behind its end.</summary>
internal sealed class SingleImage : ImageSet
{
    private readonly HostedImage _image;
    private readonly IReadOnlyList<ImageMessage> _messages;
    private readonly DiskWindow _window;
    private ImageNodes[] _nodes = [];

    public SingleImage(MountSettings settings, ServedImage served, NewerRanges? newer, ILogger logger)
    {
        _messages = served.Messages;
        Path = served.ImagePath;
        _image = new HostedImage(settings, served, newer, logger);
        try
        {
            _window = WindowOf(settings, _image);
        }
        catch
        {
            _image.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public override string Path { get; }

    /// <inheritdoc/>
    public override bool IsReadOnly => _image.IsReadOnly;

    /// <inheritdoc/>
    public override string Description =>
        $"{System.IO.Path.GetFileName(Path)} ({SizeText.Human(_window.Length ?? _image.Length - _window.Start)})";

    /// <inheritdoc/>
    public override IReadOnlyList<ImageMessage> Messages => _messages;

    /// <inheritdoc/>
    public override IReadOnlyList<ImageNodes> Current() => _nodes;

    /// <inheritdoc/>
    protected override ImageNodes? Behind(string? name) => name is null ? _nodes.FirstOrDefault() : null;

    /// <inheritdoc/>
    public override void CreateNodes(TreeContext context, bool rootIsFile)
    {
        context.Nodes.HasLastingNumbers = context.Generation > 0;

        // The first node is the root.
        if (!rootIsFile)
            _ = RootDirectory.Create(context, this);
        _nodes = [new ImageNodes(context, _image, RawFileName.For(_image.Path), _window)];
    }

    /// <inheritdoc/>
    public override void Flush() => _image.Flush();

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => _image.Dispose();

    /// <summary>What of the disk is shown.</summary>
    private static DiskWindow WindowOf(MountSettings settings, HostedImage image)
    {
        if (settings.Partition is { } number)
        {
            if (settings.WindowStart is not null || settings.WindowLength is not null)
                throw CommandException.Usage("option partition: start and length cannot be given with it");
            Partition partition = image.ReadTable().Partitions.FirstOrDefault(one => one.Number == number);
            return partition.Length > 0
                ? new DiskWindow(partition.Start, partition.Length)
                : throw new BlockException(
                    BlockErrorKind.NotFound,
                    $"{Printable.Text(image.Path)}: has no partition {number}",
                    cause: new(FailureCode.PartitionMissing) { Name = NumbersIn(image.ReadTable()) });
        }

        long start = settings.WindowStart ?? 0;
        long left = image.Length - start;
        long length = settings.WindowLength ?? left;
        if (left < 0 || length > left)
        {
            throw new BlockException(
                BlockErrorKind.OutOfRange,
                $"{Printable.Text(image.Path)}: the disk has {image.Length} bytes; the range {start}+"
                + $"{Math.Max(length, 0)} does not lie in it");
        }

        return new DiskWindow(start, settings.WindowLength);
    }

    private static string? NumbersIn(PartitionTable table) => table.Partitions.Count == 0
        ? null : string.Join(", ", table.Partitions.Select(static partition => partition.Number));
}
