// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Images.Reports;

namespace Qcow2Fuse.Images.Verbs;

/// <summary>What <c>resize</c> is asked for.</summary>
/// <param name="Size">The new size as typed, such as 10G or +1G.</param>
/// <param name="Preallocation">What is done for the storage of new space.</param>
/// <param name="MayShrink">Whether the disk may become smaller.</param>
public sealed record ResizeRequest(
    string Size, Preallocation Preallocation = Preallocation.Off, bool MayShrink = false);

/// <summary><c>resize</c>: changes the size of a disk.</summary>
public static class ResizeVerb
{
    /// <summary>What is printed when it is done.</summary>
    public const string Done = "Image resized.";

    private const int SectorSize = 512;

    /// <summary>Changes the size of the disk in an image that nobody else has open. Durable on return.</summary>
    /// <param name="path">The image.</param>
    /// <param name="format">The name of its format; null to recognise it, which raw never is.</param>
    /// <param name="request">What to do.</param>
    /// <param name="secrets">Passphrases, or null.</param>
    /// <exception cref="BlockException">It cannot be opened for writing, or as <see cref="Apply"/>.</exception>
    public static void Run(string path, string? format, ResizeRequest request, ImageSecrets? secrets)
    {
        ImageOpenOptions options = new() { Path = path, Format = format, Secrets = secrets };
        using OpenedImage image = ImageFile.OpenChain(options);
        if (image.Device.IsReadOnly)
        {
            ImageMessage? why = image.Messages.Count > 0 ? image.Messages[^1] : null;
            throw new BlockException(
                BlockErrorKind.ReadOnly, why?.Text ?? $"{path}: cannot be written", cause: why?.Cause);
        }

        Apply(image.Device, path, request);
    }

    /// <summary>Changes the size of an open disk. Durable on return.</summary>
    /// <param name="device">The disk.</param>
    /// <param name="name">Its name in messages.</param>
    /// <param name="request">What to do.</param>
    /// <exception cref="BlockException">The size makes no sense, is smaller and must not be, or cannot be had.
    /// </exception>
    public static void Apply(BlockDevice device, string name, ResizeRequest request)
    {
        long wanted = NewSize(name, request.Size, device.Length);
        if (wanted < device.Length && !request.MayShrink)
        {
            throw new BlockException(
                BlockErrorKind.OutOfRange,
                $"{name}: {wanted} bytes are less than its {device.Length}",
                cause: FailureCode.WouldShrink);
        }

        Resize(device, name, wanted, request.Preallocation);
        device.Flush();
    }

    private static void Resize(BlockDevice device, string name, long size, Preallocation preallocation)
    {
        if (device is IResizable resizable)
        {
            resizable.Resize(size, preallocation);
            return;
        }

        if (preallocation == Preallocation.Metadata)
            throw Invalid($"{name}: a raw image has no metadata to preallocate");
        long old = device.Length;
        device.Resize(size);
        if (preallocation != Preallocation.Off && size > old)
            device.WriteZeroes(old, size - old, mayUnmap: false);
    }

    /// <summary>Whole sectors are what every reader of qcow2 can represent.</summary>
    private static long NewSize(string name, string text, long old)
    {
        char sign = text.Length > 0 ? text[0] : '\0';
        bool isRelative = sign is '+' or '-';
        if (!SizeText.TryParse(isRelative ? text[1..] : text, out long value))
            throw Invalid($"{name}: invalid size '{Printable.Text(text)}'", FailureCode.SizeInvalid);
        if (sign == '-' && value > old)
            throw Invalid($"{name}: has only {old} bytes");
        if (value > long.MaxValue - SectorSize - (isRelative ? old : 0))
            throw Invalid($"{name}: the size is too large");
        long wanted = sign switch { '+' => old + value, '-' => old - value, _ => value };
        if (wanted == 0)
            throw Invalid($"{name}: a disk of 0 bytes is no disk");
        return wanted % SectorSize == 0
            ? wanted : throw Invalid($"{name}: {wanted} bytes are no multiple of {SectorSize}");
    }

    private static BlockException Invalid(string message, FailureCode? code = null) =>
        new(BlockErrorKind.OutOfRange, message, cause: code is { } known ? new FailureCause(known) : null);
}
