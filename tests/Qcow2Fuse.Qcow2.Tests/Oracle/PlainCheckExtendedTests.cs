// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Oracle;

/// <summary>Corruption of images with subclusters, snapshots and narrow refcounts, on images QEMU made.</summary>
public sealed class PlainCheckExtendedTests : IDisposable
{
    private readonly TempDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    [SkippableTheory]
    [InlineData(0x0000_0001_0000_0001UL, "both allocated and zero")]
    [InlineData(0x8000_0000_8000_0000UL, "both allocated and zero")]
    public void A_subcluster_that_is_both_allocated_and_zero_is_an_error(ulong bitmap, string message)
    {
        byte[] image = Image("extended_l2=on", "write -P 1 0 64k");
        PlainReader reader = new(new ArrayImage(image));
        BinaryPrimitives.WriteUInt64BigEndian(image.AsSpan((int)L2Entry(reader) + 8), bitmap);
        Assert.Contains(reader.Check().Errors, error => error.Contains(message, StringComparison.Ordinal));
        Assert.Throws<PlainReaderException>(() => reader.ReadAll());
    }

    [SkippableFact]
    public void Allocated_subclusters_without_a_cluster_are_an_error()
    {
        byte[] image = Image("extended_l2=on", "write -P 1 0 64k");
        PlainReader reader = new(new ArrayImage(image));
        BinaryPrimitives.WriteUInt64BigEndian(image.AsSpan((int)L2Entry(reader)), 0);
        Assert.Contains(
            reader.Check().Errors, error => error.Contains("names no cluster", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void The_zero_flag_is_reserved_in_extended_entries()
    {
        byte[] image = Image("extended_l2=on", "write -P 1 0 64k");
        PlainReader reader = new(new ArrayImage(image));
        image[L2Entry(reader) + 7] |= 1;
        Assert.Contains(reader.Check().Errors, error => error.Contains("reserved", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void A_shared_cluster_marked_as_owned_is_an_error()
    {
        QemuTools.RequireTool("qemu-io");
        string path = _directory.File("shared.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", path, "1M");
        QemuTools.Io(path, "write -P 1 0 64k");
        QemuTools.Img("snapshot", "-c", "one", path);
        byte[] image = File.ReadAllBytes(path);
        PlainReader reader = new(new ArrayImage(image));
        Assert.Empty(reader.Check().Errors);
        image[L2Entry(reader)] |= 0x80;
        Assert.Contains(reader.Check().Errors, error => error.Contains("COPIED", StringComparison.Ordinal));
    }

    [SkippableTheory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    [InlineData(32)]
    [InlineData(64)]
    public void Refcounts_of_every_width_are_compared(int bits)
    {
        byte[] image = Image($"refcount_bits={bits}", "write -P 1 0 256k");
        PlainReader reader = new(new ArrayImage(image));
        Assert.Empty(reader.Check().Errors);
        long block = (long)reader.Read64(reader.Header.RefcountTableOffset);
        image.AsSpan((int)block, 64 * bits / 8).Clear();
        Assert.NotEmpty(reader.Check().Errors);
        image.AsSpan((int)block, 64 * bits / 8).Fill(0xFF);
        Assert.True(reader.Check().Leaks > 0);
    }

    private static long L2Entry(PlainReader reader) =>
        (long)(reader.Read64(reader.Header.L1Offset) & PlainReader.OffsetMask);

    private byte[] Image(string options, string command)
    {
        QemuTools.RequireTool("qemu-io");
        string path = _directory.File("image.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, path, "1M");
        QemuTools.Io(path, command);
        return File.ReadAllBytes(path);
    }
}
