// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>An open image with all its files. Disposing it closes them.</summary>
public sealed class OpenedImage : IDisposable
{
    internal OpenedImage(
        BlockDevice device,
        IStorageFile file,
        IReadOnlyList<ImageLayer> layers,
        IReadOnlyList<ImageMessage> messages)
    {
        Device = device;
        File = file;
        Layers = layers;
        Messages = messages;
    }

    /// <summary>What the guest sees as its disk.</summary>
    public BlockDevice Device { get; }

    /// <summary>The file of the image itself, which the device owns.</summary>
    public IStorageFile File { get; }

    /// <summary>Whether it cannot be written, whatever was asked for.</summary>
    public bool ReadOnly => Device.IsReadOnly;

    /// <summary>The image and the backing files below it, the image first.</summary>
    public IReadOnlyList<ImageLayer> Layers { get; }

    /// <summary>What the user should know although the image was opened.</summary>
    public IReadOnlyList<ImageMessage> Messages { get; }

    /// <summary>Closes the image and its files.</summary>
    public void Dispose() => Device.Dispose();
}

/// <summary>One image of a backing chain.</summary>
/// <param name="Path">Its file, not escaped.</param>
/// <param name="Format">Its format's name.</param>
/// <param name="DataFile">Its external data file, not escaped; or null.</param>
public sealed record ImageLayer(string Path, string Format, string? DataFile);

/// <summary>Something the user should know.</summary>
/// <param name="Text">One line, fit to print.</param>
/// <param name="Cause">What it is about, where something can be done; else null.</param>
public sealed record ImageMessage(string Text, FailureCause? Cause);
