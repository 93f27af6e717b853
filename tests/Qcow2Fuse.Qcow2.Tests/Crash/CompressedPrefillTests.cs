// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Crash;

/// <summary>The compressed clusters of crash runs are valid, to the plain reader and to QEMU.</summary>
public sealed class CompressedPrefillTests
{
    [Theory]
    [InlineData(9, 2)]
    [InlineData(12, 3)]
    [InlineData(16, 3)]
    [InlineData(21, 3)]
    public void Compressed_clusters_are_read_and_counted(int clusterBits, int version)
    {
        int cluster = 1 << clusterBits;
        ImageKind kind = new(clusterBits, version, ExtendedL2: false, 12L * cluster, -1, 0);
        using TestImage image = TestImage.Create(new NaiveSubject(), kind).Write(0, cluster, 1).Close();
        IReadOnlyList<(long Guest, byte[] Bytes)> added = CompressedPrefill.Add(image.Disk, new SeededRandom(3));
        Assert.NotEmpty(added);
        PlainReader reader = image.Plain;
        foreach ((long guest, byte[] bytes) in added)
        {
            byte[] seen = new byte[bytes.Length];
            reader.Read(guest, seen);
            Assert.True(seen.AsSpan().SequenceEqual(bytes));
            Assert.Equal(PlaceKind.Compressed, reader.Locate(guest).Kind);
        }

        PlainCheck check = reader.Check();
        Assert.Empty(check.Errors);
        Assert.Equal(0, check.Leaks);
        if (QemuTools.HasQemuImg)
            Assert.Null(QemuJudge.Ask(image.Disk.Current, null, reader));
    }
}
