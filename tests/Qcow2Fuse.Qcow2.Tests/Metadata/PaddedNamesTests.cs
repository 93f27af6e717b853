// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Metadata;

/// <summary>Names and formats in a header that some writers fill up with zeroes.</summary>
public sealed class PaddedNamesTests
{
    private const uint BackingFormatExtension = 0xE2792ACA;

    [Fact]
    public void Zeroes_behind_a_name_and_a_format_are_no_part_of_them()
    {
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions
        {
            Size = 1 << 20,
            BackingFile = "base.raw",
            BackingFormat = "raw",
        });
        byte[] header = new byte[4096];
        file.Read(0, header);
        BinaryPrimitives.WriteUInt32BigEndian(
            header.AsSpan(16), BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(16)) + 5);
        int extension = FindExtension(header);
        Assert.Equal(3u, BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(extension + 4)));
        BinaryPrimitives.WriteUInt32BigEndian(header.AsSpan(extension + 4), 8);
        file.Write(0, header);

        ImageReferences references = new Qcow2Format().Inspect(file);
        Assert.Equal(("base.raw", "raw"), (references.BackingName, references.BackingFormat));
    }

    [Fact]
    public void A_backing_name_is_kept_as_its_bytes()
    {
        const string Name = "caf\uDCE9.raw";
        using MemoryDevice file = new();
        Qcow2Creator.Create(file, new Qcow2CreateOptions { Size = 1 << 20, BackingFile = Name, BackingFormat = "raw" });
        byte[] header = new byte[4096];
        file.Read(0, header);
        byte[] stored = [(byte)'c', (byte)'a', (byte)'f', 0xE9, (byte)'.'];
        Assert.True(header.AsSpan().IndexOf(stored) > 0);
        Assert.Equal(Name, new Qcow2Format().Inspect(file).BackingName);
    }

    private static int FindExtension(byte[] header)
    {
        int at = (int)BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(100));
        while (BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(at)) != BackingFormatExtension)
            at += 8 + (((int)BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(at + 4)) + 7) & ~7);
        return at;
    }
}
