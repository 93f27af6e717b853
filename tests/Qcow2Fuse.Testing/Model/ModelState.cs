// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Model;

/// <summary>The open image of a case, and the array that says what it has to hold.</summary>
public sealed class ModelState : IDisposable
{
    private readonly ModelImage _image;
    private readonly Func<BlockDevice, BlockDevice>? _filter;
    private byte[] _scratch = new byte[1 << 16];
    private BlockDevice? _device;

    /// <summary>Opens a copy of an image.</summary>
    /// <param name="image">The image at the start of the case.</param>
    /// <param name="filter">Put between the operations and the image, or null.</param>
    public ModelState(ModelImage image, Func<BlockDevice, BlockDevice>? filter = null)
    {
        _image = image;
        _filter = filter;
        Files = image.Files.Copy();
        Expected = [.. image.Content];
        Open();
    }

    /// <summary>The case.</summary>
    public ModelCase Case => _image.Case;

    /// <summary>The files the image consists of.</summary>
    public ModelFiles Files { get; }

    /// <summary>What the disk has to hold; as long as the disk.</summary>
    public byte[] Expected { get; set; }

    /// <summary>The disk.</summary>
    public BlockDevice Device => _device ?? throw new InvalidOperationException("the image is closed");

    /// <summary>The disk as the engine's own class, for what only qcow2 images can do.</summary>
    public Qcow2Device Engine { get; private set; } = null!;

    /// <summary>The size of the disk.</summary>
    public long Size => Expected.LongLength;

    /// <summary>What discards do in this case.</summary>
    public DiscardMode Discard => _image.Discard;

    /// <summary>Bytes that are zeroed or discarded as one by metadata.</summary>
    public int Subcluster => Case.ExtendedL2 ? Case.ClusterSize / 32 : Case.ClusterSize;

    /// <summary>Operations done.</summary>
    public int Done { get; set; }

    /// <summary>Kinds of operations the engine refused, with nothing changed.</summary>
    public HashSet<string> Refused { get; } = [];

    /// <summary>The snapshots there are: name, and what the disk held.</summary>
    public Dictionary<string, byte[]> Snapshots { get; } = [];

    /// <summary>A range of a step, cut off at the end of the disk; the length may become 0.</summary>
    public (long Offset, int Length) Cut(ModelStep step)
    {
        long offset = Math.Min(step.Offset, Size);
        return (offset, (int)Math.Min(step.Length, Size - offset));
    }

    /// <summary>Compares a range of the disk with the array.</summary>
    public void Compare(long offset, long length, string when)
    {
        while (length > 0)
        {
            int step = (int)Math.Min(length, 1 << 20);
            ReadOnlySpan<byte> seen = Read(offset, step);
            ReadOnlySpan<byte> expected = Expected.AsSpan((int)offset, step);
            int same = seen.CommonPrefixLength(expected);
            if (same < step)
            {
                throw new ModelException(string.Create(
                    CultureInfo.InvariantCulture,
                    $"{when}: byte {offset + same} is 0x{seen[same]:x2}, expected 0x{expected[same]:x2}"));
            }

            offset += step;
            length -= step;
        }
    }

    /// <summary>What the disk holds; valid until the next call.</summary>
    public Span<byte> Read(long offset, int length)
    {
        if (_scratch.Length < length)
            _scratch = new byte[Math.Max(length, 1 << 20)];
        Span<byte> seen = _scratch.AsSpan(0, length);
        seen.Fill(0xA5);
        Device.Read(offset, seen);
        return seen;
    }

    /// <summary>
    /// Resizes disk and array to whole sectors, what is new being zero; notes where the engine does not support it.
    /// </summary>
    public void Resize(long size, string kind)
    {
        size &= -512L;
        try
        {
            Device.Resize(size);
        }
        catch (BlockException refusal) when (refusal.Kind == BlockErrorKind.NotSupported)
        {
            Refused.Add(kind);
            return;
        }

        byte[] expected = Expected;
        Array.Resize(ref expected, (int)size);
        Expected = expected;
        if (Device.Length != size)
            throw new ModelException($"{kind}: the disk has {Device.Length} bytes, expected {size}");
    }

    /// <summary>
    /// Closes the image, checks the file with the plain reader, and compares all after opening it again.
    /// </summary>
    public void Reopen()
    {
        Close();
        CheckFile();
        Open();
        if (Device.Length != Size)
            throw new ModelException($"reopened: the disk has {Device.Length} bytes, expected {Size}");
        Compare(0, Size, "reopened");
    }

    /// <summary>Closes the image.</summary>
    public void Close()
    {
        _device?.Dispose();
        _device = null;
    }

    /// <summary>
    /// The closed file has no errors and no leaks, say the plain check and ours, and its snapshots hold what they held.
    /// </summary>
    public void CheckFile()
    {
        PlainReader reader = Files.Reader();
        PlainCheck check = reader.Check();
        if (check.Errors.Count > 0)
            throw new ModelException("plain check: " + string.Join("; ", check.Errors));
        if (check.Leaks > 0)
            throw new ModelException($"plain check: {check.Leaks} leaked clusters");
        CheckResult ours = ImageChecker.Check(Files.Image);
        if (!ours.IsClean)
            throw new ModelException("our check: " + string.Join("; ", ours.Findings));
        Dictionary<string, byte[]> expected = new(_image.Snapshots);
        foreach ((string name, byte[] content) in Snapshots)
            expected[name] = content;
        IReadOnlyList<PlainSnapshot> found = reader.Snapshots();
        if (!found.Select(one => one.Name).Order().SequenceEqual(expected.Keys.Order()))
            throw new ModelException("snapshots: " + string.Join(", ", found.Select(one => one.Name)));
        foreach (PlainSnapshot snapshot in found)
        {
            byte[] held = reader.At(snapshot).ReadAll();
            int same = held.AsSpan().CommonPrefixLength(expected[snapshot.Name]);
            if (same < held.Length || same < expected[snapshot.Name].Length)
                throw new ModelException($"snapshot {snapshot.Name}: differs at byte {same}");
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Close();

    private void Open()
    {
        Engine = Qcow2Device.Open(Files.Image, new FormatOpenArguments
        {
            Backing = Files.OpenBacking(),
            DataFile = Files.Data,
            Discard = _image.Discard,
            Formats =
            [
                new Qcow2Options
                {
                    L2CacheBytesMax = _image.SmallCaches ? 1 : 0,
                    RefcountCacheBytesMax = _image.SmallCaches ? 1 : 0,
                },
            ],
        });
        _device = _filter?.Invoke(Engine) ?? Engine;
    }
}
