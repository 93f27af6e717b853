// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Core;

/// <summary>What all parts of an open image share: its files, its header, and its gate.</summary>
internal sealed class ImageCore : IDisposable
{
    private volatile BlockDevice? _backing;

    /// <summary>Owns <paramref name="file"/> and the devices in <paramref name="arguments"/>.</summary>
    public ImageCore(BlockDevice file, Qcow2Header header, FormatOpenArguments arguments)
    {
        File = file;
        Data = arguments.DataFile ?? file;
        _backing = arguments.Backing;
        IsReadOnly = arguments.ReadOnly;
        Geometry = new Qcow2Geometry(header);
        Header = new HeaderStore(file, header, Gate);
        Size = new DiskSize(header.Size & ~511L);
        Corrupt = new CorruptMark(file, Header, header.Version, arguments.ReadOnly);
    }

    /// <summary>The image file.</summary>
    public BlockDevice File { get; }

    /// <summary>Where guest data lies: the external data file, or the image file.</summary>
    public BlockDevice Data { get; }

    /// <summary>What shows through where nothing is stored; null for zeroes. It can become another one.</summary>
    public BlockDevice? Backing => _backing;

    /// <summary>What messages call the image.</summary>
    public string Name => File.Name;

    public bool IsReadOnly { get; }

    public Qcow2Geometry Geometry { get; }

    public HeaderStore Header { get; }

    public ImageGate Gate { get; } = new();

    public DiskSize Size { get; }

    public CorruptMark Corrupt { get; }

    /// <summary>
    /// Held by whoever changes the image as a whole, its size or its snapshots, or wants nobody else to: one at a time.
    /// It is taken before the gate.
    /// </summary>
    public Lock ChangeLock { get; } = new();

    /// <summary>Whether the data file alone is to be the guest's disk (autoclear bit 1).</summary>
    public bool IsRawExternal => (Header.Current.Autoclear & FeatureBits.RawExternalData) != 0;

    /// <summary>Storage that image file and data file occupy, in bytes.</summary>
    public long AllocatedBytes =>
        ReferenceEquals(File, Data) ? File.AllocatedBytes : File.AllocatedBytes + Data.AllocatedBytes;

    /// <summary>
    /// Puts another device below. The gate is held, and nothing that has asked for <see cref="Backing"/> goes on with
    /// what it was told.
    /// </summary>
    /// <returns>The device that was below, which is the caller's now.</returns>
    public BlockDevice? ChangeBacking(BlockDevice? backing)
    {
        Gate.AssertHeld();
        BlockDevice? before = _backing;
        _backing = backing;
        return before;
    }

    /// <summary>Throws <see cref="BlockErrorKind.ReadOnly"/> if the image was opened so.</summary>
    public void CheckWritable()
    {
        if (IsReadOnly)
            throw new BlockException(BlockErrorKind.ReadOnly, $"{Name}: is read-only");
    }

    public void Dispose()
    {
        if (!ReferenceEquals(File, Data))
            Data.Dispose();
        Backing?.Dispose();
        File.Dispose();
    }
}
