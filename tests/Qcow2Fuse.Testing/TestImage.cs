// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Globalization;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>
/// An image in memory, open for writing, with the verbs a test needs. Below the engine lie an
/// <see cref="OrderRecorder"/>, a <see cref="FaultyDevice"/> and a <see cref="CrashDevice"/>, in this order.
/// </summary>
public sealed partial class TestImage : IDisposable
{
    private readonly Func<BlockDevice, BlockDevice?, BlockDevice> _open;
    private readonly byte[]? _backing;
    private readonly byte[]? _passphrase;
    private BlockDevice? _device;
    private PlainCipher? _cipher;

    private TestImage(
        Action<BlockDevice> create, Func<BlockDevice, BlockDevice?, BlockDevice> open, byte[]? backing, bool opened,
        byte[]? passphrase = null)
    {
        _passphrase = passphrase;
        _open = open;
        _backing = backing;
        create(Disk);
        Disk.StartRecording();
        Faults = new FaultyDevice(Disk);
        Order = new OrderRecorder(Faults);
        if (opened)
            Reopen();
    }

    /// <summary>The recorded image file.</summary>
    public CrashDevice Disk { get; } = new();

    /// <summary>Where requests to the image file can be failed or held.</summary>
    public FaultyDevice Faults { get; }

    /// <summary>The requests to the image file in their order.</summary>
    public OrderRecorder Order { get; }

    /// <summary>The open image.</summary>
    public BlockDevice Device => _device ?? throw new InvalidOperationException("the image is closed");

    /// <summary>The independent reader of the image file as it is now.</summary>
    public PlainReader Plain
    {
        get
        {
            if (_passphrase is not null)
                _cipher ??= PlainCipher.Open(Disk.Current, _passphrase);
            return new PlainReader(
                Disk.Current, _backing is null ? null : new ArrayImage(_backing), cipher: _cipher);
        }
    }

    /// <summary>A new image made and opened by an engine.</summary>
    /// <param name="engine">The engine.</param>
    /// <param name="kind">The image; its backing file is filled with the stamp of tag 0.</param>
    public static TestImage Create(ICrashSubject engine, ImageKind kind) => new(
        file => engine.Create(file, kind),
        (file, backing) => engine.Open(file, backing, null),
        kind.HasBacking ? Stamp.Bytes(0, (int)kind.BackingLength, 0) : null,
        opened: true);

    /// <summary>Writes the stamp of <paramref name="tag"/>.</summary>
    public TestImage Write(long offset, int length, ulong tag)
    {
        Device.Write(offset, Stamp.Bytes(offset, length, tag));
        return this;
    }

    /// <summary>Writes <paramref name="length"/> bytes of one value.</summary>
    public TestImage WritePattern(long offset, int length, byte value)
    {
        byte[] bytes = new byte[length];
        bytes.AsSpan().Fill(value);
        Device.Write(offset, bytes);
        return this;
    }

    /// <summary>The guest's bytes as the engine reads them.</summary>
    public byte[] Read(long offset, int length)
    {
        byte[] bytes = new byte[length];
        Device.Read(offset, bytes);
        return bytes;
    }

    /// <summary>Asserts that a range holds the stamp of <paramref name="tag"/>.</summary>
    public TestImage ShouldRead(long offset, int length, ulong tag) =>
        ShouldRead(offset, Stamp.Bytes(offset, length, tag));

    /// <summary>Asserts that a range holds zeroes.</summary>
    public TestImage ShouldReadZeroes(long offset, int length) => ShouldRead(offset, new byte[length]);

    /// <summary>Asserts that <paramref name="expected"/> is at an offset.</summary>
    public TestImage ShouldRead(long offset, ReadOnlySpan<byte> expected)
    {
        byte[] seen = Read(offset, expected.Length);
        int same = expected.CommonPrefixLength(seen);
        Assert.True(same == expected.Length, string.Create(
            CultureInfo.InvariantCulture,
            $"byte 0x{offset + same:x} is 0x{(same < seen.Length ? seen[same] : 0):x2}, expected ")
            + string.Create(CultureInfo.InvariantCulture, $"0x{(same < expected.Length ? expected[same] : 0):x2}"));
        return this;
    }

    /// <summary>Closes the image if it is open.</summary>
    public TestImage Close()
    {
        _device?.Dispose();
        _device = null;
        return this;
    }

    /// <summary>Closes the image and opens it again.</summary>
    public TestImage Reopen()
    {
        Close();
        _device = _open(Order, _backing is null ? null : new BackingDevice(_backing));
        return this;
    }

    /// <summary>
    /// Flushes and asserts that the metadata of the file has no errors and, unless they are allowed, no leaks: by the
    /// plain reader, and by <c>qemu-img check</c> where that is installed. The plain reader and the engine must also
    /// see the same bytes.
    /// </summary>
    public TestImage ShouldPassCheck(bool allowLeaks = false)
    {
        _device?.Flush();
        PlainReader reader = Plain;
        PlainCheck check = reader.Check();
        Assert.True(check.Errors.Count == 0, "plain check: " + string.Join("; ", check.Errors));
        Assert.True(allowLeaks || check.Leaks == 0, $"plain check: {check.Leaks} leaked clusters");
        if (_device is not null && reader.Size <= 64 << 20)
            ShouldRead(0, reader.ReadAll());
        if (QemuTools.HasQemuImg)
        {
            using TempDirectory directory = new();
            if (_passphrase is null)
                QemuTools.ShouldPassCheck(Export(directory), allowLeaks);
            else
                new QemuSecret(directory, _passphrase).ShouldPassCheck(Export(directory));
        }

        return this;
    }

    /// <summary>
    /// Writes the image file, and its backing file beside it, into a directory; returns the image's path.
    /// </summary>
    public string Export(TempDirectory directory)
    {
        string path = directory.File("image.qcow2");
        using (FileStream stream = new(path, FileMode.Create, FileAccess.Write))
        {
            SectorImage image = Disk.Current;
            byte[] piece = new byte[1 << 16];
            for (long at = 0; (at = image.SkipZeroes(at, image.Length)) < image.Length; at += piece.Length)
            {
                int length = (int)Math.Min(piece.Length, image.Length - at);
                image.Read(at, piece.AsSpan(0, length));
                stream.Position = at;
                stream.Write(piece, 0, length);
            }

            stream.SetLength(image.Length);
        }

        if (_backing is not null)
            File.WriteAllBytes(directory.File("backing.raw"), _backing);
        return path;
    }

    /// <summary>A big-endian number of 1, 2, 4 or 8 bytes at an offset of the image file.</summary>
    public ulong PeekBigEndian(long offset, int bytes = 8)
    {
        Span<byte> number = stackalloc byte[8];
        number.Clear();
        Disk.Current.Read(offset, number[(8 - bytes)..]);
        return BinaryPrimitives.ReadUInt64BigEndian(number);
    }

    /// <summary>
    /// Overwrites a big-endian number of 1, 2, 4 or 8 bytes in the image file, behind the engine's back.
    /// </summary>
    public TestImage Poke(long offset, ulong value, int bytes = 8)
    {
        Span<byte> number = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(number, value);
        Disk.Write(offset, number[(8 - bytes)..]);
        return this;
    }

    /// <summary>The L2 entry of a guest offset, 0 where there is no L2 table.</summary>
    public ulong L2EntryOf(long guestOffset) => Plain.Locate(guestOffset).Entry;

    /// <inheritdoc/>
    public void Dispose() => Close();
}
