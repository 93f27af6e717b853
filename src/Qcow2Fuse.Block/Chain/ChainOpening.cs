// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Block.Chain;

/// <summary>One run of <see cref="ImageOpener.Open"/>: the options and what has been opened so far.</summary>
internal sealed class ChainOpening(
    IStorageOpener storage, IReadOnlyList<IImageFormat> formats, ImageOpenOptions options)
{
    private const string RawName = "raw";

    private readonly HashSet<StorageIdentity> _opened = [];
    private readonly List<ImageLayer> _layers = [];
    private readonly List<ImageMessage> _messages = [];
    private readonly bool _direct = options.Cache is CacheMode.None or CacheMode.DirectSync;
    private readonly bool _takesLocks = !options.NoLock && !options.ForceShare;

    public OpenedImage Run()
    {
        Layer top = PrepareTop();
        BlockDevice device = Complete(top, depth: 1);
        if (!top.ReadOnly && options.Cache is CacheMode.Writethrough or CacheMode.DirectSync)
            device = new WriteThroughFilter(device);
        return new OpenedImage(device, top.File, _layers, _messages);
    }

    private Layer PrepareTop()
    {
        if (!options.ReadOnly && OpenWritable() is { } file)
        {
            Layer layer = Prepare(file, options.Format, ImageLockMode.Writer, readOnly: false);
            if (options.AllowLoss || layer.References.WriteLoss is not { } loss)
                return layer;

            // Opened anew, so that neither the descriptor nor the locks claim what is not going to happen. It is the
            // same file, whatever its name leads to by now.
            IStorageFile same = ReopenReadOnly(layer.File);
            _messages.Add(new ImageMessage(
                $"{layer.File.Device.Name}: is opened read-only: {loss}", FailureCode.BitmapsAtStake));
            return Prepare(same, options.Format, ImageLockMode.Reader, readOnly: true);
        }

        IStorageFile readable = storage.OpenNamed(options.Path, new StorageAccess(ReadOnly: true, _direct));
        return Prepare(readable, options.Format, ImageLockMode.Reader, readOnly: true);
    }

    private IStorageFile ReopenReadOnly(IStorageFile file)
    {
        try
        {
            return storage.Reopen(file, new StorageAccess(ReadOnly: true, _direct));
        }
        finally
        {
            file.Device.Dispose();
            _opened.Remove(file.Identity);
        }
    }

    /// <summary>The image's file, or null with a message if it can only be read.</summary>
    private IStorageFile? OpenWritable()
    {
        try
        {
            return storage.OpenNamed(options.Path, new StorageAccess(ReadOnly: false, _direct));
        }
        catch (BlockException e) when (e.Kind is BlockErrorKind.PermissionDenied or BlockErrorKind.ReadOnly)
        {
            _messages.Add(new ImageMessage($"{e.Message}; it is opened read-only", e.Cause));
            return null;
        }
    }

    /// <summary>Registers and locks an open file and reads its header. Closes it on failure.</summary>
    private Layer Prepare(IStorageFile file, string? formatName, ImageLockMode lockMode, bool readOnly)
    {
        try
        {
            IImageFormat? named = formatName is null ? null : FindFormat(file, formatName);
            Register(file);
            if (!readOnly)
                file.ClaimForWriting();
            if (_takesLocks)
                file.Lock(lockMode);
            IImageFormat format = named ?? Probe(file);
            ImageReferences references = format.Inspect(file.Device);
            if (!readOnly && references.WriteRefusal is { } refusal)
            {
                throw new BlockException(
                    BlockErrorKind.ReadOnly,
                    $"{file.Device.Name}: {refusal}",
                    cause: references.WriteRefusalCause);
            }

            return new Layer(file, format, references, readOnly);
        }
        catch
        {
            file.Device.Dispose();
            throw;
        }
    }

    /// <summary>Opens what the layer needs, then its device, which owns all of it. Closes all on failure.</summary>
    private BlockDevice Complete(Layer layer, int depth)
    {
        BlockDevice? dataFile = null;
        BlockDevice? backing = null;
        try
        {
            IStorageFile? data = OpenDataFile(layer, isTop: depth == 1);
            dataFile = data?.Device;
            data?.LeaveDirectory();
            _layers.Add(new ImageLayer(layer.File.Path, layer.Format.Name, data?.Path));
            backing = OpenBacking(layer, depth);
            if (depth == 1)
            {
                RefuseChoicesForNone();
                backing = BackingChain.Mapped(backing);
            }

            return layer.Format.Open(
                layer.File.Device,
                new FormatOpenArguments(options)
                {
                    ReadOnly = layer.ReadOnly,
                    Backing = backing,
                    DataFile = dataFile,
                    Compress = layer.ReadOnly ? CompressedWrites.Off : options.Compress,
                    Report = _messages.Add,
                });
        }
        catch
        {
            backing?.Dispose();
            dataFile?.Dispose();
            layer.File.Device.Dispose();
            throw;
        }
    }

    private IStorageFile? OpenDataFile(Layer layer, bool isTop)
    {
        string? chosen = isTop ? options.DataFile : null;
        string image = layer.File.Device.Name;
        if (!layer.References.NeedsDataFile)
        {
            if (chosen is null)
                return null;
            throw new BlockException(BlockErrorKind.NotSupported, $"{image}: has no external data file");
        }

        StorageAccess access = new(layer.ReadOnly, _direct);
        IStorageFile file;
        if (chosen is not null)
        {
            file = storage.OpenNamed(chosen, access);
        }
        else if (layer.References.DataFileName is { Length: > 0 } name)
        {
            file = storage.OpenReference(
                new StorageReference(layer.File, name, ReferenceKind.DataFile, [], _layers.Count), access);
        }
        else
        {
            throw new BlockException(
                BlockErrorKind.NotFound,
                $"{image}: needs an external data file and names none",
                cause: FailureCode.DataFileUnnamed);
        }

        try
        {
            Register(file);
            if (!layer.ReadOnly)
                file.ClaimForWriting();
            if (_takesLocks)
                file.Lock(layer.ReadOnly ? ImageLockMode.DataReader : ImageLockMode.DataWriter);
            return file;
        }
        catch
        {
            file.Device.Dispose();
            throw;
        }
    }

    private BlockDevice? OpenBacking(Layer layer, int depth)
    {
        IStorageFile? file = OpenBackingFile(layer, depth, out string? format);
        layer.File.LeaveDirectory();
        if (file is null)
            return null;
        bool isRaw = string.Equals(format, RawName, StringComparison.Ordinal);
        Layer below = Prepare(
            file, format, isRaw ? ImageLockMode.RawBacking : ImageLockMode.Reader, readOnly: true);
        return Complete(below, depth + 1);
    }

    /// <summary>The file below a layer and its format, or null where there is none.</summary>
    private IStorageFile? OpenBackingFile(Layer layer, int depth, out string? format)
    {
        bool isTop = depth == 1;
        string? chosen = options.BackingFiles.GetValueOrDefault(depth - 1);
        string? name = layer.References.BackingName;
        format = null;
        if ((isTop && options.NoBacking) || (chosen is null && string.IsNullOrEmpty(name)))
            return null;

        string image = layer.File.Device.Name;
        if (depth >= options.ChainDepthMax)
        {
            throw new BlockException(
                BlockErrorKind.TooLarge,
                $"{image}: is layer {depth} of its chain and has a backing file; no deeper chain is opened");
        }

        format = BackingFormat(layer, depth - 1, chosen)
            ?? throw BackingErrors.FormatUnknown(layer.File.Path, chosen ?? name!, depth - 1);
        StorageAccess access = new(ReadOnly: true, _direct);
        if (chosen is not null)
            return storage.OpenNamed(chosen, access);
        try
        {
            return storage.OpenReference(
                new StorageReference(layer.File, name!, ReferenceKind.Backing, options.AllowPaths, depth - 1),
                access);
        }
        catch (BlockException e) when (e.Kind == BlockErrorKind.NotFound)
        {
            throw BackingErrors.Missing(_layers, name!, format, e);
        }
    }

    /// <summary>A file chosen by the user need not be of the format that the image states for its own choice.</summary>
    private string? BackingFormat(Layer layer, int number, string? chosen)
    {
        string? stated = layer.References.BackingFormat is { Length: > 0 } name ? name : null;
        string? meant = options.BackingFormats.GetValueOrDefault(number)
            ?? (number == 0 ? options.BackingFormat : null);
        return (chosen is null ? stated ?? meant : meant ?? stated) ?? options.BackingFormat;
    }

    /// <summary>Refuses choices for layers that the chain does not have: they were meant for another one.</summary>
    private void RefuseChoicesForNone()
    {
        foreach (int number in options.BackingFiles.Keys.Concat(options.BackingFormats.Keys))
        {
            if (number < _layers.Count)
                continue;
            string has = _layers.Count == 1 ? "one layer, 0" : $"the layers 0 to {_layers.Count - 1}";
            throw new BlockException(
                BlockErrorKind.NotFound,
                $"{Printable.Text(options.Path)}: has no layer {number} whose backing file could be chosen, "
                    + $"only {has}");
        }
    }

    /// <summary>
    /// Refuses a file that the chain holds already. A backing loop would never end, and data written to the image
    /// file would destroy its metadata.
    /// </summary>
    private void Register(IStorageFile file)
    {
        if (!_opened.Add(file.Identity))
        {
            throw new BlockException(
                BlockErrorKind.Policy, $"{file.Device.Name}: occurs twice in the chain of this image");
        }
    }

    private IImageFormat FindFormat(IStorageFile file, string name)
    {
        foreach (IImageFormat format in formats)
        {
            if (string.Equals(format.Name, name, StringComparison.Ordinal))
                return format;
        }

        string known = string.Join(", ", formats.Select(static format => format.Name));
        throw new BlockException(
            BlockErrorKind.UnsupportedFeature,
            $"{file.Device.Name}: the format '{Printable.Text(name)}' is not known, only {known}");
    }

    private IImageFormat Probe(IStorageFile file) =>
        FormatProbe.Find(formats, file.Device, file.Path) ?? throw new BlockException(
            BlockErrorKind.InvalidFormat,
            $"{file.Device.Name}: is not an image of a known format",
            cause: new(FailureCode.NoKnownFormat) { File = file.Path });

    private sealed record Layer(
        IStorageFile File, IImageFormat Format, ImageReferences References, bool ReadOnly);
}
