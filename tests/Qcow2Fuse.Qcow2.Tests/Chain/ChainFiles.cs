// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Formats.Raw;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Qcow2.Tests.Chain;

/// <summary>Images on top of each other in a directory, and the bytes that the topmost one shows.</summary>
internal sealed class ChainFiles : IDisposable
{
    private readonly TempDirectory _directory = new();
    private readonly ImageOpener _opener = new(new FileStorage(), [new Qcow2Format(), new RawFormat()]);
    private string? _topFormat;
    private int _count;

    /// <summary>What the topmost image shows.</summary>
    public byte[] Content { get; private set; } = [];

    /// <summary>The topmost image.</summary>
    public string Top { get; private set; } = string.Empty;

    public void Dispose() => _directory.Dispose();

    /// <summary>The lowest layer, a raw disk.</summary>
    public ChainFiles Raw(byte[] content)
    {
        Top = _directory.File("base.raw");
        _topFormat = "raw";
        File.WriteAllBytes(Top, content);
        Content = content;
        return this;
    }

    /// <summary>One more image on top, empty at first and then filled by a change of disk and <see cref="Content"/>.
    /// </summary>
    public ChainFiles Add(Qcow2CreateOptions options, CompressedWrites compress, Action<BlockDevice, byte[]>? fill)
    {
        string path = _directory.File($"layer{_count++}.qcow2");
        using (FileDevice file = FileDevice.Create(path))
        {
            Qcow2Creator.Create(file, options with
            {
                BackingFile = _topFormat is null ? null : Path.GetFileName(Top),
                BackingFormat = _topFormat,
            });
        }

        (Top, _topFormat) = (path, "qcow2");
        byte[] content = new byte[options.Size];
        Content.AsSpan(0, (int)Math.Min(Content.Length, content.Length)).CopyTo(content);
        Content = content;
        if (fill is not null)
        {
            using OpenedImage image = Open(compress);
            fill(image.Device, content);
        }

        return this;
    }

    /// <summary>An image like the others, with clusters of 64 KiB.</summary>
    public ChainFiles Add(Action<BlockDevice, byte[]>? fill = null) =>
        Add(new Qcow2CreateOptions { Size = Content.Length }, CompressedWrites.Off, fill);

    /// <summary>The topmost image with all below it, for writing.</summary>
    public OpenedImage Open(CompressedWrites compress = CompressedWrites.Off) => _opener.Open(
        new ImageOpenOptions { Path = Top, Format = _topFormat, Compress = compress });

    /// <summary>The image <paramref name="depth"/> layers below the top.</summary>
    public static Qcow2Device LayerOf(OpenedImage image, int depth)
    {
        BlockDevice? layer = image.Device;
        for (int i = 0; i < depth; i++)
            layer = BackingChain.Below(layer!);
        while (layer is FilterDevice filter)
            layer = filter.Child;
        return (Qcow2Device)layer!;
    }
}
