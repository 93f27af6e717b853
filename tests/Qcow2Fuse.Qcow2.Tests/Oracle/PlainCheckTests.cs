// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Crash;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Oracle;

/// <summary>Every corruption the check is for is found, one poked field at a time.</summary>
public sealed class PlainCheckTests : IDisposable
{
    private const int Cluster = 4096;
    private const long RefcountTable = Cluster;
    private const long RefcountBlock = 2 * Cluster;
    private const long L1 = 3 * Cluster;
    private const long L2 = 4 * Cluster;
    private const long FirstData = 5 * Cluster;
    private const ulong Copied = 1UL << 63;

    private readonly TestImage _image = TestImage
        .Create(new NaiveSubject(), new ImageKind(12, 3, ExtendedL2: false, 64 * Cluster, -1, 0))
        .Write(0, 3 * Cluster, 1)
        .ShouldPassCheck();

    public void Dispose() => _image.Dispose();

    [Theory]
    [InlineData(L2, Copied | (ulong)FirstData | 2, "reserved")]
    [InlineData(L2, (ulong)FirstData, "COPIED")]
    [InlineData(L2, Copied | (ulong)FirstData | 512, "not aligned")]
    [InlineData(L2, Copied | (200 * Cluster), "past the end")]
    [InlineData(L2, Copied | ((ulong)FirstData + Cluster), "used as Data and as Data")]
    [InlineData(L2, Copied | (ulong)L1, "used as L1Table and as Data")]
    [InlineData(L2, Copied | (ulong)RefcountBlock, "used as RefcountBlock and as Data")]
    [InlineData(L2, Copied, "names no cluster")]
    [InlineData(L2, Copied | (1UL << 62) | (ulong)FirstData, "COPIED")]
    [InlineData(L1, Copied | (ulong)L2 | 1, "reserved")]
    [InlineData(L1, (ulong)L2, "COPIED")]
    [InlineData(L1, Copied | (300 * Cluster), "past the end")]
    [InlineData(L1, Copied | ((ulong)L2 + 1024), "not aligned")]
    [InlineData(RefcountTable, (ulong)RefcountBlock | 1, "reserved")]
    [InlineData(RefcountTable, 0UL, "refcount 0 and 1 references")]
    [InlineData(RefcountTable, 1000UL * Cluster, "past the end")]
    public void A_wrong_table_entry_is_an_error(long offset, ulong value, string message)
    {
        _image.Poke(offset, value);
        Assert.Contains(_image.Plain.Check().Errors, error => error.Contains(message, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(6)]
    public void A_refcount_that_is_too_low_is_an_error(int cluster)
    {
        _image.Poke(RefcountBlock + (cluster * 2), 0, 2);
        Assert.Contains(
            _image.Plain.Check().Errors,
            error => error.Contains("has refcount 0 and 1 references", StringComparison.Ordinal));
    }

    [Fact]
    public void A_refcount_without_a_reference_is_a_leak_and_no_error()
    {
        _image.Poke(L2 + 8, 0);
        PlainCheck check = _image.Plain.Check();
        Assert.Empty(check.Errors);
        Assert.Equal(1, check.Leaks);
    }

    [Fact]
    public void A_dirty_image_may_have_stale_refcounts()
    {
        _image.Poke(RefcountBlock + 10, 0, 2).Poke(72, 1);
        Assert.Empty(_image.Plain.Check().Errors);
    }

    [Theory]
    [InlineData(0, 0x51464900)]
    [InlineData(4, 4)]
    [InlineData(20, 8)]
    [InlineData(20, 22)]
    [InlineData(36, 0)]
    [InlineData(56, 0)]
    [InlineData(76, 0x40)]
    [InlineData(96, 7)]
    [InlineData(100, 96)]
    public void A_wrong_header_field_does_not_open(long offset, ulong value)
    {
        _image.Poke(offset, value, 4);
        Assert.Throws<PlainReaderException>(() => _image.Plain);
    }

    [Fact]
    public void A_compressed_cluster_of_garbage_cannot_be_read()
    {
        _image.Poke(L2, (1UL << 62) | (ulong)FirstData);
        Assert.Throws<PlainReaderException>(() => _image.Plain.ReadAll());
    }
}
