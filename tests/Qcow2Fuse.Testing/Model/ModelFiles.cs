// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Model;

/// <summary>The files of an image in memory, which stay when devices on them are disposed.</summary>
/// <param name="image">The image file.</param>
/// <param name="data">The external data file, or null.</param>
/// <param name="backing">The backing file, or null; it is never changed.</param>
/// <param name="backingContent">What the guest sees of the backing file, or null.</param>
/// <param name="between">
/// An image between the two, which the engine alone is shown and which changes nothing of what they hold; or null.
/// </param>
public sealed class ModelFiles(
    MemoryDevice image, MemoryDevice? data, MemoryDevice? backing, byte[]? backingContent, MemoryDevice? between)
{
    /// <summary>Name of the image file in a directory.</summary>
    public const string ImageName = "image.qcow2";

    /// <summary>Name of the data file in a directory.</summary>
    public const string DataName = "data.raw";

    /// <summary>Name of the backing file in a directory, whatever its format.</summary>
    public const string BackingName = "backing.img";

    private const int PieceSize = MemoryDevice.ChunkSize;

    /// <summary>The image file.</summary>
    public MemoryDevice Image => image;

    /// <summary>The external data file, or null.</summary>
    public MemoryDevice? Data => data;

    /// <summary>Whether the data file alone is to be the guest's disk (autoclear bit 1).</summary>
    public bool IsRawData => data is not null && (Reader().Header.Autoclear & 2) != 0;

    /// <summary>
    /// The first bytes of the data file, with zeroes past its end. It may be longer than the disk, up to the end of the
    /// last cluster, as QEMU makes it too.
    /// </summary>
    public byte[] DataBytes(long length)
    {
        byte[] bytes = new byte[length];
        new DeviceImage(data!).Read(0, bytes);
        return bytes;
    }

    /// <summary>Reads the files a directory holds.</summary>
    /// <param name="directory">The directory.</param>
    /// <param name="backingContent">What the guest sees of the backing file, or null.</param>
    /// <param name="isChain">Whether the engine is shown one more image between the two.</param>
    public static ModelFiles Load(TempDirectory directory, byte[]? backingContent, bool isChain = false)
    {
        string dataFile = directory.File(DataName);
        MemoryDevice? backing = backingContent is null ? null : LoadFile(directory.File(BackingName));
        return new ModelFiles(
            LoadFile(directory.File(ImageName)),
            File.Exists(dataFile) ? LoadFile(dataFile) : null,
            backing,
            backingContent,
            isChain && backing is not null ? MakeBetween(backing, backingContent!) : null);
    }

    /// <summary>The same files again; the backing file is shared, as nobody changes it.</summary>
    public ModelFiles Copy() =>
        new(CopyFile(image), data is null ? null : CopyFile(data), backing, backingContent, between);

    /// <summary>Writes the files into a directory.</summary>
    public void Save(TempDirectory directory)
    {
        SaveFile(image, directory.File(ImageName));
        if (data is not null)
            SaveFile(data, directory.File(DataName));
        if (backing is not null)
            SaveFile(backing, directory.File(BackingName));
    }

    /// <summary>The guest view of the backing file as the engine reads it, or null.</summary>
    public BlockDevice? OpenBacking()
    {
        if (backing is null)
            return null;
        BlockDevice lowest = OpenLowest(backing, backingContent!);
        return between is null ? lowest : BackingChain.Mapped(
            Qcow2Device.Open(between, new FormatOpenArguments { ReadOnly = true, Backing = lowest }));
    }

    /// <summary>The independent reader of the image as it is now.</summary>
    public PlainReader Reader() => new(
        new DeviceImage(image),
        backingContent is null ? null : new ArrayImage(backingContent),
        data is null ? null : new DeviceImage(data));

    private static BlockDevice OpenLowest(MemoryDevice backing, byte[] content)
    {
        Span<byte> magic = stackalloc byte[4];
        backing.Read(0, magic);
        return magic.SequenceEqual<byte>([(byte)'Q', (byte)'F', (byte)'I', 0xFB])
            ? Qcow2Device.Open(backing, new FormatOpenArguments { ReadOnly = true })
            : new BackingDevice(content);
    }

    /// <summary>Some of the content, stored once more: it is found now in this layer, now in the one below.</summary>
    private static MemoryDevice MakeBetween(MemoryDevice backing, byte[] content)
    {
        const int Stored = 10_000;
        const int Step = 70_000;
        MemoryDevice file = new(name: "between.qcow2");
        Qcow2Creator.Create(file, new Qcow2CreateOptions
        {
            Size = (content.LongLength + 511) & ~511L,
            ClusterSize = 4096,
        });
        using Qcow2Device device = Qcow2Device.Open(
            file, new FormatOpenArguments { Backing = OpenLowest(backing, content) });
        for (int at = 0; at < content.Length; at += Step)
            device.Write(at, content.AsSpan(at, Math.Min(Stored, content.Length - at)));
        return file;
    }

    private static MemoryDevice LoadFile(string path)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0);
        MemoryDevice device = new(stream.Length, name: Path.GetFileName(path));
        byte[] piece = new byte[PieceSize];
        for (long at = 0; at < stream.Length; at += piece.Length)
        {
            Span<byte> part = piece.AsSpan(0, (int)Math.Min(piece.Length, stream.Length - at));
            stream.ReadExactly(part);
            if (part.ContainsAnyExcept((byte)0))
                device.Write(at, part);
        }

        return device;
    }

    private static MemoryDevice CopyFile(MemoryDevice from)
    {
        MemoryDevice to = new(from.Length, name: from.Name);
        ForEachPiece(from, to.Write);
        return to;
    }

    private static void SaveFile(MemoryDevice device, string path)
    {
        using FileStream stream = new(path, FileMode.Create, FileAccess.Write, FileShare.None, bufferSize: 0);
        stream.SetLength(device.Length);
        ForEachPiece(device, (at, bytes) =>
        {
            stream.Position = at;
            stream.Write(bytes);
        });
    }

    private static void ForEachPiece(MemoryDevice device, Action<long, ReadOnlySpan<byte>> take)
    {
        byte[] piece = new byte[PieceSize];
        for (long at = 0; at < device.Length;)
        {
            Extent extent = device.GetExtent(at, device.Length - at);
            if (extent.Kind == ExtentKind.Zero)
            {
                at += extent.Length;
                continue;
            }

            Span<byte> part = piece.AsSpan(0, (int)Math.Min(piece.Length, extent.Length));
            device.Read(at, part);
            take(at, part);
            at += part.Length;
        }
    }

    /// <summary>A device as the plain reader sees it.</summary>
    private sealed class DeviceImage(MemoryDevice device) : ByteImage
    {
        public override long Length => device.Length;

        public override void Read(long offset, Span<byte> destination)
        {
            int inside = (int)Math.Clamp(device.Length - offset, 0, destination.Length);
            if (inside > 0)
                device.Read(offset, destination[..inside]);
            destination[inside..].Clear();
        }

        public override long SkipZeroes(long offset, long end)
        {
            long known = Math.Min(end, device.Length);
            if (offset >= known)
                return offset < end && offset >= device.Length ? end : offset;
            Extent extent = device.GetExtent(offset, known - offset);
            return extent.Kind == ExtentKind.Zero ? offset + extent.Length : offset;
        }
    }
}
