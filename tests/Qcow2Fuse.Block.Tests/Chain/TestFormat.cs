// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Block.Tests;

/// <summary>
/// A format for tests of the opener: lines of text, "TEST" first, then <c>backing=</c>, <c>backing-format=</c>,
/// <c>data=</c>, <c>refuse=</c>, <c>loses=</c>, <c>fail=</c>. The device shows the data file or the
/// file itself.
/// </summary>
internal sealed class TestFormat : IImageFormat
{
    public string Name => "test";

    public static string Image(params string[] lines) => string.Join('\n', lines.Prepend("TEST")) + "\n";

    public bool Probe(ReadOnlySpan<byte> head) => head.StartsWith("TEST"u8);

    public ImageReferences Inspect(BlockDevice file)
    {
        byte[] text = new byte[file.Length];
        file.Read(0, text);
        if (!Probe(text))
            throw new BlockException(BlockErrorKind.InvalidFormat, $"{file.Name}: is not a test image");
        Dictionary<string, string> fields = Encoding.UTF8.GetString(text).Split('\n')
            .Select(static line => line.Split('=', 2))
            .Where(static parts => parts.Length == 2)
            .ToDictionary(static parts => parts[0], static parts => parts[1], StringComparer.Ordinal);
        return new ImageReferences
        {
            BackingName = fields.GetValueOrDefault("backing"),
            BackingFormat = fields.GetValueOrDefault("backing-format"),
            NeedsDataFile = fields.ContainsKey("data"),
            DataFileName = fields.GetValueOrDefault("data"),
            WriteRefusal = fields.GetValueOrDefault("refuse"),
            WriteRefusalCause = FailureCode.Damaged,
            WriteLoss = fields.GetValueOrDefault("loses"),
        };
    }

    public BlockDevice Open(BlockDevice file, FormatOpenArguments arguments)
    {
        byte[] text = new byte[file.Length];
        file.Read(0, text);
        if (Encoding.UTF8.GetString(text).Contains("fail=", StringComparison.Ordinal))
            throw new BlockException(BlockErrorKind.Corrupt, $"{file.Name}: fails to open");
        return new TestDevice(file, arguments);
    }
}

/// <summary>An open image of <see cref="TestFormat"/>: shows the file, and everything is unallocated.</summary>
internal sealed class TestDevice(BlockDevice file, FormatOpenArguments arguments) : FilterDevice(file), IOverlay
{
    public override bool IsReadOnly => arguments.ReadOnly;

    public FormatOpenArguments Arguments => arguments;

    public BlockDevice? Backing => arguments.Backing;

    public override Extent GetExtent(long offset, long length) =>
        new(offset, length, ExtentKind.Unallocated, HostOffset: -1, Depth: 0);

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            arguments.Backing?.Dispose();
            arguments.DataFile?.Dispose();
        }

        base.Dispose(disposing);
    }
}
