// SPDX-License-Identifier: MIT
using System.Text.Json;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Check;

/// <summary>What qemu-img and qcow2fuse say of an image.</summary>
internal readonly record struct Verdict(int ExitCode, long Corruptions, long Leaks);

/// <summary>The bytes of an image, with the places of its tables, to be damaged and judged.</summary>
internal sealed class DamagedImage(byte[] bytes)
{
    public const ulong Copied = 1UL << 63;

    private readonly byte[] _bytes = [.. bytes];

    public byte[] Bytes => _bytes;

    public PlainReader Plain
    {
        get
        {
            ArrayImage file = new(_bytes);
            return new PlainReader(file, dataFile: new PlainHeader(file).ExternalData ? new ArrayImage([]) : null);
        }
    }

    public PlainHeader Header => new(new ArrayImage(_bytes));

    public long ClusterSize => Header.ClusterSize;

    /// <summary>The end of the file, rounded up to a cluster.</summary>
    public long End => (_bytes.Length + ClusterSize - 1) / ClusterSize * ClusterSize;

    public ulong Peek(long offset, int size = 8)
    {
        ulong value = 0;
        for (int i = 0; i < size; i++)
            value = (value << 8) | _bytes[offset + i];
        return value;
    }

    public void Poke(long offset, ulong value, int size = 8)
    {
        for (int i = size - 1; i >= 0; i--, value >>= 8)
            _bytes[offset + i] = (byte)value;
    }

    public void Or(long offset, ulong bits) => Poke(offset, Peek(offset) | bits);

    public void Clear(long offset, ulong bits) => Poke(offset, Peek(offset) & ~bits);

    /// <summary>Where an entry of the active L1 table lies.</summary>
    public long L1At(int index) => Header.L1Offset + (index * 8L);

    /// <summary>Where the L2 entry of a guest offset lies.</summary>
    public long L2At(long guest) => TryL2At(guest) ?? throw new InvalidOperationException("there is no L2 table");

    /// <summary>Where the L2 entry of a guest offset lies; null where it has no table.</summary>
    public long? TryL2At(long guest)
    {
        PlainHeader header = Header;
        long cluster = guest / header.ClusterSize;
        long perTable = header.ClusterSize / header.L2EntrySize;
        long table = (long)(Peek(header.L1Offset + (cluster / perTable * 8)) & PlainReader.OffsetMask);
        return table == 0 ? null : table + (cluster % perTable * header.L2EntrySize);
    }

    /// <summary>The host cluster of a guest offset, or of its compressed data.</summary>
    public long HostOf(long guest) => (long)(Peek(L2At(guest)) & PlainReader.OffsetMask);

    public long SnapshotL1 => (long)Peek(Header.SnapshotTableOffset);

    /// <summary>The first bitmap's table.</summary>
    public long BitmapTable => (long)Peek(Header.BitmapDirectory.Offset);

    /// <summary>Where a refcount table entry lies.</summary>
    public long RefcountEntryAt(int index) => Header.RefcountTableOffset + (index * 8L);

    public ulong GetRefcount(long host)
    {
        (long at, int shift, int bits) = RefcountAt(host);
        return bits >= 8 ? Peek(at, bits / 8) : (Peek(at, 1) >> shift) & ((1UL << bits) - 1);
    }

    public void SetRefcount(long host, ulong value)
    {
        (long at, int shift, int bits) = RefcountAt(host);
        if (bits >= 8)
        {
            Poke(at, value, bits / 8);
            return;
        }

        ulong mask = ((1UL << bits) - 1) << shift;
        Poke(at, (Peek(at, 1) & ~mask) | (value << shift), 1);
    }

    /// <summary>What this program says.</summary>
    public CheckResult Check()
    {
        using MemoryDevice file = ToDevice();
        return ImageChecker.Check(file);
    }

    public MemoryDevice ToDevice()
    {
        MemoryDevice file = new(0, name: "damaged");
        file.Write(0, _bytes);
        return file;
    }

    /// <summary>The verdict of this program.</summary>
    public Verdict Ours()
    {
        CheckResult check = Check();
        int code = check.CheckErrors > 0 ? 1 : check.Corruptions > 0 ? 2 : check.Leaks > 0 ? 3 : 0;
        return new Verdict(code, check.Corruptions, check.Leaks);
    }

    /// <summary>The verdict of qemu-img.</summary>
    public Verdict Theirs()
    {
        using TempDirectory directory = new();
        string path = directory.File("image.qcow2");
        File.WriteAllBytes(path, _bytes);
        string[] image = Header.ExternalData
            ? ["--image-opts", $"driver=qcow2,file.filename={path},data-file.driver=null-co,data-file.size=4M"]
            : ["-f", "qcow2", path];
        ProcessResult result = QemuTools.TryImg(["check", "--output=json", .. image]);
        if (!result.Output.StartsWith('{'))
            return new Verdict(result.ExitCode, -1, -1);
        using JsonDocument json = JsonDocument.Parse(result.Output);
        long Figure(string key) => json.RootElement.TryGetProperty(key, out JsonElement value) ? value.GetInt64() : 0;
        return new Verdict(result.ExitCode, Figure("corruptions"), Figure("leaks"));
    }

    private (long At, int Shift, int Bits) RefcountAt(long host)
    {
        int bits = 1 << Header.RefcountOrder;
        long perBlock = ClusterSize * 8 / bits;
        long cluster = host / ClusterSize;
        long block = (long)Peek(RefcountEntryAt((int)(cluster / perBlock)));
        Assert.NotEqual(0, block);
        long bit = cluster % perBlock * bits;
        return (block + (bit / 8), (int)(bit % 8), bits);
    }
}
