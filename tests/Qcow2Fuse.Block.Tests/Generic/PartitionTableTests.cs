// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Diagnostics;
using Qcow2Fuse.Block.Partitions;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Generic;

/// <summary>Partition tables that sfdisk made, the same tables damaged, and tables no tool would make.</summary>
public sealed class PartitionTableTests : IDisposable
{
    private const int Mebibyte = 1 << 20;
    private const int DiskBytes = 64 * Mebibyte;
    private const int Sector = 512;

    private const string GptScript = """
        label: gpt
        start=2048, size=20480
        start=24576, size=2048
        14 : start=40960
        """;

    private const string MbrScript = """
        label: dos
        start=2048, size=2048, type=83
        start=4096, size=61440, type=5
        start=65536, size=8192, type=c
        start=6144, size=2048, type=83
        start=10240, size=4096, type=83
        start=20480, size=1024, type=83
        """;

    private readonly ScratchDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    [SkippableFact]
    public void A_gpt_is_read_with_its_gaps_in_numbering()
    {
        byte[] disk = Sfdisk(GptScript);
        Assert.Equal(
            [new Partition(1, Mebibyte, 10 * Mebibyte), new Partition(2, 12 * Mebibyte, Mebibyte)],
            Read(disk).Partitions.Take(2));
        Partition last = Read(disk).Partitions[2];
        Assert.Equal((14, 20L * Mebibyte), (last.Number, last.Start));
        Assert.InRange(last.Start + last.Length, DiskBytes - Mebibyte, DiskBytes - (33 * Sector));
    }

    [SkippableFact]
    public void Primary_and_logical_partitions_are_read_and_the_extended_one_is_not_shown()
    {
        Assert.Equal(
            [
                new Partition(1, Mebibyte, Mebibyte),
                new Partition(3, 32 * Mebibyte, 4 * Mebibyte),
                new Partition(5, 3 * Mebibyte, Mebibyte),
                new Partition(6, 5 * Mebibyte, 2 * Mebibyte),
                new Partition(7, 10 * Mebibyte, Mebibyte / 2),
            ],
            Read(Sfdisk(MbrScript)).Partitions);
    }

    [SkippableFact]
    public void A_table_of_4096_byte_sectors_is_read()
    {
        // As sfdisk makes it on a disk with such sectors, moved there by hand: file tools know 512 only.
        byte[] disk = new byte[DiskBytes];
        Sfdisk(GptScript).AsSpan(0, Sector).CopyTo(disk);
        WriteGpt(disk, LargeSector, [(1, 256, 511), (3, 512, 1000)]);
        Assert.Equal(
            [new Partition(1, Mebibyte, Mebibyte), new Partition(3, 2 * Mebibyte, 489 * LargeSector)],
            Read(disk).Partitions);
    }

    [SkippableTheory]
    [InlineData(512)]
    [InlineData(1024)]
    public void A_damaged_primary_gpt_is_replaced_by_the_backup(int damagedByte)
    {
        byte[] disk = Sfdisk(GptScript);
        IReadOnlyList<Partition> whole = Read(disk).Partitions;
        disk[damagedByte + 20] ^= 1;
        Assert.Equal(whole, Read(disk).Partitions);

        // A grown disk has its backup inside; the primary header, whose array is damaged, knows where.
        if (damagedByte == 1024)
            Assert.Equal(whole, Read([.. disk, .. new byte[Mebibyte]]).Partitions);
        disk[DiskBytes - Sector + 20] ^= 1;
        Assert.Empty(Read(disk).Partitions);
    }

    [SkippableFact]
    public void A_gpt_counts_only_behind_a_protective_mbr()
    {
        byte[] disk = Sfdisk(GptScript);
        disk[446 + 4] = 0x83;
        Assert.DoesNotContain(Read(disk).Partitions, static partition => partition.Number == 14);
        disk[510] = 0;
        Assert.Empty(Read(disk).Partitions);
    }

    [SkippableFact]
    public void Entries_that_leave_the_disk_or_overlap_are_left_out()
    {
        byte[] disk = new byte[DiskBytes];
        Sfdisk(GptScript).AsSpan(0, Sector).CopyTo(disk);
        ulong sectors = DiskBytes / Sector;
        WriteGpt(disk, Sector,
        [
            (1, 2048, 4095), (2, 4000, 5000), (3, 5001, sectors + 5), (4, ulong.MaxValue - 1, ulong.MaxValue),
            (5, 9000, 8000), (6, 0, 100), (7, 10000, 10000),
        ]);
        Assert.Equal(
            [new Partition(1, Mebibyte, Mebibyte), new Partition(7, 10000 * Sector, Sector)],
            Read(disk).Partitions);
    }

    [SkippableFact]
    public void A_chain_of_logical_partitions_that_bites_its_tail_ends()
    {
        byte[] disk = Sfdisk(MbrScript);
        int second = (int)BinaryPrimitives.ReadUInt32LittleEndian(disk.AsSpan((4096 * Sector) + 446 + 16 + 8));
        BinaryPrimitives.WriteUInt32LittleEndian(disk.AsSpan(((4096 + second) * Sector) + 446 + 16 + 8), 0);
        disk[((4096 + second) * Sector) + 446 + 16 + 4] = 5;
        BinaryPrimitives.WriteUInt32LittleEndian(disk.AsSpan(((4096 + second) * Sector) + 446 + 16 + 12), 1);
        Assert.Equal([1, 3, 5, 6], Read(disk).Partitions.Select(static partition => partition.Number));
    }

    [SkippableTheory]
    [InlineData(GptScript)]
    [InlineData(MbrScript)]
    public void No_bytes_make_it_fail(string script)
    {
        byte[] sound = Sfdisk(script);
        int[] tables = [446, 512, 1024, 4096 * Sector, 8192 * Sector, DiskBytes - Sector, DiskBytes - (33 * Sector)];
        MemoryDevice disk = new(DiskBytes);
        for (ulong seed = 0; seed < 1000; seed++)
        {
            SeededRandom random = new(seed);
            List<(int At, byte Old)> changed = [];
            for (int i = 0; i < 6; i++)
            {
                int at = tables[random.Below(tables.Length)] + random.Below(64);
                changed.Add((at, sound[at]));
                sound[at] = (byte)random.Below(256);
            }

            if (seed == 0)
                disk.Write(0, sound);
            foreach ((int at, _) in changed)
                disk.Write(at, [sound[at]]);
            long end = 0;
            foreach (Partition partition in
                PartitionTable.Read(disk).Partitions.OrderBy(static partition => partition.Start))
            {
                Assert.True(partition.Start >= end && partition.Length >= Sector, $"seed {seed}: {partition}");
                end = partition.Start + partition.Length;
            }

            Assert.True(end <= DiskBytes, $"seed {seed}: ends at {end}");
            changed.Reverse();
            foreach ((int at, byte old) in changed)
            {
                sound[at] = old;
                disk.Write(at, [old]);
            }
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(511)]
    [InlineData(512)]
    [InlineData(5000)]
    public void Disks_of_any_size_can_be_looked_at(int length)
    {
        byte[] disk = new byte[length];
        disk.AsSpan().Fill(0xEE);
        if (length >= 512)
        {
            disk.AsSpan(446, 64).Clear();
            disk[450] = 0xEE;
            disk[510] = 0x55;
            disk[511] = 0xAA;
        }

        PartitionTable table = Read(disk);
        Assert.Empty(table.Partitions);
        Assert.All(table.Places, place => Assert.InRange(place.Start + place.Length, 1, length));
    }

    [SkippableFact]
    [Trait(Speed.Name, Speed.Slow)]
    public void The_places_of_the_table_are_known()
    {
        bool Holds(string script, long at) =>
            Read(Sfdisk(script)).Places.Any(place => place.Overlaps(at, 1));
        Assert.All(new[] { 0L, 512, 1024 }, at => Assert.True(Holds(GptScript, at)));
        Assert.True(Holds(GptScript, DiskBytes - 1));
        Assert.False(Holds(GptScript, 5 * Mebibyte));
        Assert.True(Holds(MbrScript, (4096 * Sector) + 500));
        Assert.False(Holds(MbrScript, Mebibyte));
    }

    private const int LargeSector = 4096;

    private static PartitionTable Read(byte[] content)
    {
        MemoryDevice disk = new(content.Length);
        disk.Write(0, content);
        return PartitionTable.Read(disk);
    }

    /// <summary>A disk with the table that sfdisk makes of a script.</summary>
    private byte[] Sfdisk(string script)
    {
        string? tool = ProcessRunner.Find("sfdisk");
        if (tool is null)
            ToolRequirement.Require("sfdisk");
        string path = _directory.At("disk.raw");
        using (FileStream file = File.Create(path))
            file.SetLength(DiskBytes);
        ProcessStartInfo start = new(tool!, ["-q", path]) { RedirectStandardInput = true };
        using Process process = Process.Start(start)!;
        process.StandardInput.Write(script);
        process.StandardInput.Close();
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
        return File.ReadAllBytes(path);
    }

    /// <summary>Writes a primary GPT with 128 entries and correct checksums.</summary>
    private static void WriteGpt(byte[] disk, int sector, (int Number, ulong First, ulong Last)[] partitions)
    {
        Span<byte> array = disk.AsSpan(2 * sector, 128 * 128);
        array.Clear();
        foreach ((int number, ulong first, ulong last) in partitions)
        {
            Span<byte> entry = array.Slice((number - 1) * 128, 128);
            entry[0] = (byte)number;
            BinaryPrimitives.WriteUInt64LittleEndian(entry[32..], first);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[40..], last);
        }

        Span<byte> header = disk.AsSpan(sector, sector);
        header.Clear();
        "EFI PART"u8.CopyTo(header);
        BinaryPrimitives.WriteUInt32LittleEndian(header[8..], 0x10000);
        BinaryPrimitives.WriteUInt32LittleEndian(header[12..], 92);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], (ulong)(disk.Length / sector) - 1);
        BinaryPrimitives.WriteUInt64LittleEndian(header[40..], 34);
        BinaryPrimitives.WriteUInt64LittleEndian(header[48..], (ulong)(disk.Length / sector) - 34);
        BinaryPrimitives.WriteUInt64LittleEndian(header[72..], 2);
        BinaryPrimitives.WriteUInt32LittleEndian(header[80..], 128);
        BinaryPrimitives.WriteUInt32LittleEndian(header[84..], 128);
        BinaryPrimitives.WriteUInt32LittleEndian(header[88..], Crc(array));
        BinaryPrimitives.WriteUInt32LittleEndian(header[16..], Crc(header[..92]));
    }

    /// <summary>CRC-32 bit by bit.</summary>
    private static uint Crc(ReadOnlySpan<byte> bytes)
    {
        uint value = uint.MaxValue;
        foreach (byte one in bytes)
        {
            value ^= one;
            for (int bit = 0; bit < 8; bit++)
                value = (value >> 1) ^ ((value & 1) * 0xEDB88320);
        }

        return ~value;
    }
}
