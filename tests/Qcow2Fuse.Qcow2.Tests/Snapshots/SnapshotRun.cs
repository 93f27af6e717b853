// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Snapshots;

/// <summary>
/// An image and what it and each of its snapshots must hold, byte for byte; with random operations on both.
/// </summary>
internal sealed class SnapshotRun : IDisposable
{
    private readonly SeededRandom _random;
    private readonly byte[] _disk;
    private readonly int _refcountMax;
    private ulong _tag = 1;

    public SnapshotRun(
        ulong seed, int version, int clusterSize, bool extendedL2, bool withBacking = false, bool compressed = false,
        int refcountBits = 16, int clusters = 24)
    {
        _random = new SeededRandom(seed);
        _refcountMax = refcountBits < 4 ? (1 << refcountBits) - 1 : int.MaxValue;
        int size = (clusters * Math.Min(clusterSize, 65536)) + 512;
        byte[]? backing = withBacking ? Stamp.Bytes(0, size / 2, 0) : null;
        Image = TestImage.Create(
            new Qcow2CreateOptions
            {
                Size = size,
                Version = version,
                ClusterSize = clusterSize,
                ExtendedL2 = extendedL2,
                RefcountBits = refcountBits,
            },
            backing);
        _disk = new byte[size];
        backing?.CopyTo(_disk, 0);
        if (compressed)
            AddCompressed();
    }

    public TestImage Image { get; }

    /// <summary>What the disk holds.</summary>
    public byte[] Disk => _disk;

    /// <summary>What each snapshot holds, by its id.</summary>
    public Dictionary<string, byte[]> Expected { get; } = new(StringComparer.Ordinal);

    public Qcow2Device Device => (Qcow2Device)Image.Device;

    public string Last { get; private set; } = "";

    public void Write(int offset, int length)
    {
        Image.Write(offset, length, ++_tag);
        Stamp.Bytes(offset, length, _tag).CopyTo(_disk, offset);
    }

    public SnapshotInfo Create()
    {
        SnapshotInfo made = Device.CreateSnapshot($"s{_tag++}");
        Expected.Add(made.Id, (byte[])_disk.Clone());
        return made;
    }

    public void Apply(string id)
    {
        Device.ApplySnapshot(id);
        Expected[id].CopyTo(_disk, 0);
    }

    public void Delete(string id)
    {
        Device.DeleteSnapshot(id);
        Expected.Remove(id);
    }

    /// <summary>One random operation on the disk, or sometimes on its snapshots.</summary>
    public void Step(bool withSnapshots = true)
    {
        int kind = _random.Below(withSnapshots ? 100 : 70);
        int offset = _random.Below(_disk.Length);
        int length = 1 + _random.Below(Math.Min(_disk.Length - offset, _random.Pick(600, 5000, 200000)));
        Last = $"{kind} {offset}+{length}";
        switch (kind)
        {
            case < 40:
                Write(offset, length);
                break;
            case < 52:
                Device.WriteZeroes(offset, length, mayUnmap: _random.Chance(50));
                _disk.AsSpan(offset, length).Clear();
                break;
            case < 60:
                Discard(offset, length);
                break;
            case < 66:
                Device.Flush();
                break;
            case < 70:
                Image.Reopen();
                break;
            case < 85 when Expected.Count < 6:
                TryChange(() => Create());
                break;
            case < 92 when Expected.Count > 0:
                TryChange(() => Apply(Pick()));
                break;
            default:
                if (Expected.Count > 0)
                    Delete(Pick());
                break;
        }
    }

    /// <summary>Metadata is sound and counted exactly, and disk and snapshots hold what they must.</summary>
    public void Check(bool allowLeaks = false)
    {
        Device.Flush();
        PlainReader plain = Image.Plain;
        PlainCheck check = plain.Check();
        Assert.True(check.Errors.Count == 0, $"after {Last}: {string.Join("; ", check.Errors)}");
        Assert.Equal(Expected.Keys.Order(StringComparer.Ordinal),
            plain.Snapshots().Select(static s => s.Id).Order(StringComparer.Ordinal));
        ShouldHold(plain, "disk", _disk);
        ShouldHold(Device, "disk", _disk);
        foreach (PlainSnapshot snapshot in plain.Snapshots())
        {
            ShouldHold(plain.At(snapshot), $"plain {snapshot.Id}", Expected[snapshot.Id]);
            using BlockDevice opened = Device.OpenSnapshot(snapshot.Id);
            ShouldHold(opened, $"snapshot {snapshot.Id}", Expected[snapshot.Id]);
        }

        if (allowLeaks)
            return;

        // What was freed by writes is counted until the close.
        Image.Reopen();
        Assert.Equal(0, Image.Plain.Check().Leaks);
    }

    public void ShouldPassQemu()
    {
        if (!QemuTools.HasQemuImg)
            return;
        using TempDirectory directory = new();
        QemuTools.ShouldPassCheck(Image.Export(directory));
    }

    public void Dispose() => Image.Dispose();

    /// <summary>
    /// Whole subclusters become zeroes or, where the entry cannot say so (version 2, parts of compressed clusters),
    /// stay what they are, as the edges do.
    /// </summary>
    private void Discard(int offset, int length)
    {
        int unit = Device.ClusterSize / (Image.Plain.Header.ExtendedL2 ? 32 : 1);
        Device.Discard(offset, length);
        long start = ((long)offset + unit - 1) / unit * unit;
        long end = offset + length == _disk.Length ? _disk.Length : (long)(offset + length) / unit * unit;
        byte[] seen = Image.Read(0, _disk.Length);
        for (long at = start; at < end; at += unit)
        {
            int piece = (int)Math.Min(unit, end - at);
            if (!seen.AsSpan((int)at, piece).ContainsAnyExcept((byte)0))
                _disk.AsSpan((int)at, piece).Clear();
        }
    }

    /// <summary>A narrow refcount has no room for many snapshots: then nothing changes.</summary>
    private void TryChange(Action change)
    {
        try
        {
            change();
        }
        catch (BlockException refused) when (
            refused.Kind == BlockErrorKind.TooLarge && Expected.Count + 2 > _refcountMax)
        {
            Last += " refused";
        }
    }

    private string Pick() => Expected.Keys.Order(StringComparer.Ordinal).ElementAt(_random.Below(Expected.Count));

    private void AddCompressed()
    {
        Write(0, 512);
        Write(_disk.Length - 512, 512);
        Image.Close();
        foreach ((long guest, byte[] bytes) in CompressedPrefill.Add(Image.Disk, _random))
            bytes.AsSpan(0, (int)Math.Min(bytes.Length, _disk.Length - guest)).CopyTo(_disk.AsSpan((int)guest));
        Image.Reopen();
    }

    private static void ShouldHold(PlainReader reader, string what, byte[] expected)
    {
        Assert.Equal(expected.Length, reader.Size);
        ShouldBe(what, expected, reader.ReadAll());
    }

    private static void ShouldHold(BlockDevice device, string what, byte[] expected)
    {
        Assert.Equal(expected.Length, device.Length);
        byte[] seen = new byte[expected.Length];
        device.Read(0, seen);
        ShouldBe(what, expected, seen);
    }

    private static void ShouldBe(string what, byte[] expected, byte[] seen)
    {
        int same = expected.AsSpan().CommonPrefixLength(seen);
        Assert.True(same == expected.Length, $"{what}: byte {same} differs");
    }
}
