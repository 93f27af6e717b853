// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Encryption;

/// <summary>The engine on encrypted images, judged by the plain reader with a cipher of its own.</summary>
public sealed class EncryptedDeviceTests
{
    private const int ClusterSize = 16384;
    private const int SectorSize = 512;
    private static readonly TimeSpan Patience = Eventually.Patience;

    public static TheoryData<string, bool> Kinds => new()
    {
        { "xts-plain64", false },
        { "xts-plain64", true },
        { "cbc-essiv:sha256", false },
        { "cbc-plain64", true },
        { "aes", false },
        { "aes", true },
    };

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void Writes_of_any_alignment_are_what_an_independent_reader_decrypts(string mode, bool extendedL2)
    {
        byte[] backing = Stamp.Bytes(0, 20 * ClusterSize, 1);
        using TestImage image = Create(mode, extendedL2, backing);
        image.Write(5000, 300, 2).Write(ClusterSize - 1, 2, 3).Write((3 * ClusterSize) + 700, 40_000, 4)
            .Write((3 * ClusterSize) + 710, 5, 5).Write(63 * ClusterSize, ClusterSize, 6);
        image.ShouldRead(5000, 300, 2).ShouldRead(0, 5000, 1).ShouldRead(5300, 700, 1).ShouldPassCheck();
        image.Device.WriteZeroes(4000, 20_000, mayUnmap: true);
        image.Reopen().ShouldReadZeroes(4000, 20_000).ShouldRead((3 * ClusterSize) + 710, 5, 5)
            .ShouldRead((3 * ClusterSize) + 715, 1000, 4).ShouldPassCheck();
    }

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void What_surrounds_a_write_in_a_new_cluster_is_zeroes(string mode, bool extendedL2)
    {
        const int LargeCluster = 1 << 20, At = (3 * LargeCluster) + 500_000;
        using TestImage image = TestImage.Create(new Qcow2CreateOptions
        {
            Size = 8 * LargeCluster,
            ClusterSize = LargeCluster,
            ExtendedL2 = extendedL2,
            Encryption = EncryptedImages.Of(mode),
        });
        image.Write(At, 100, 1).ShouldReadZeroes(0, At).ShouldRead(At, 100, 1)
            .ShouldReadZeroes(At + 100, (8 * LargeCluster) - At - 100).ShouldPassCheck();

        // Again where the file was used before, so that the host would have to zero.
        image.Device.WriteZeroes(0, 8 * LargeCluster, mayUnmap: true);
        image.Device.Flush();
        image.Device.Flush();
        image.Write(At, 100, 2).ShouldReadZeroes(0, At).ShouldRead(At, 100, 2)
            .ShouldReadZeroes(At + 100, (8 * LargeCluster) - At - 100).ShouldPassCheck();
    }

    [Theory]
    [InlineData("xts-plain64")]
    [InlineData("cbc-essiv:sha256")]
    [InlineData("aes")]
    public void Nothing_of_the_guest_is_plain_in_the_file_and_no_two_sectors_are_alike(string mode)
    {
        using TestImage image = Create(mode, extendedL2: false);
        byte[] data = new byte[4 * ClusterSize];
        data.AsSpan().Fill(0x5a);
        byte[] kept = [.. data];
        image.Device.Write(0, data);
        image.Write(8 * ClusterSize, ClusterSize, 7).Device.Flush();
        Assert.True(kept.AsSpan().SequenceEqual(data), "the guest's buffer was changed");

        byte[] file = image.Disk.Current.ToArray();
        Assert.True(file.AsSpan().IndexOf(data.AsSpan(0, 16)) < 0, "there is plain data in the file");
        HashSet<string> seen = [];
        for (long guest = 0; guest < data.Length; guest += SectorSize)
        {
            long host = image.Plain.Locate(guest).HostOffset;
            Assert.True(seen.Add(Convert.ToHexString(file, (int)host, SectorSize)), $"the sector at {guest}");
        }
    }

    [Theory]
    [InlineData("xts-plain64")]
    [InlineData("cbc-plain64")]
    [InlineData("aes")]
    public async Task Writers_of_parts_of_the_same_sectors_lose_nothing(string mode)
    {
        const int Writers = 8, Rounds = 20, Bytes = 3 * SectorSize;
        using TestImage image = Create(mode, extendedL2: false);
        image.Write(0, ClusterSize, 1).Device.Flush();
        Task[] tasks = [.. Enumerable.Range(0, Writers).Select(writer => Task.Factory.StartNew(
            () =>
            {
                byte[] one = new byte[1];
                for (int round = Rounds; round >= 0; round--)
                {
                    for (int at = writer; at < Bytes; at += Writers)
                    {
                        one[0] = (byte)(writer + (Writers * round));
                        image.Device.Write(1000 + at, one);
                        image.Device.Read(1000 + at, one);
                        Assert.Equal(writer + (Writers * round), one[0]);
                    }
                }
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
        await Task.WhenAll(tasks).WaitAsync(Patience);
        byte[] expected = [.. Enumerable.Range(0, Bytes).Select(static at => (byte)(at % Writers))];
        image.ShouldRead(1000, expected).ShouldRead(0, 1000, 1)
            .ShouldRead(1000 + Bytes, ClusterSize - 1000 - Bytes, 1).ShouldPassCheck();
    }

    [Fact]
    public async Task A_sector_under_change_makes_its_other_users_wait_and_nobody_else()
    {
        using TestImage image = Create("cbc-plain64", extendedL2: false);
        image.Write(0, ClusterSize, 1).Device.Flush();
        using HeldRequest held = image.Faults.Hold(BlockOp.Write);
        Task first = Task.Run(() => image.Write(100, 50, 2));
        held.WaitUntilHeld();

        TestThread writer = TestThread.Start(() => image.Write(300, 50, 3));
        TestThread reader = TestThread.Start(() => image.Read(400, 10));
        await Task.Run(() => image.Write(SectorSize, 50, 4)).WaitAsync(Patience);
        await Task.Run(() => image.Read(2 * SectorSize, 1000)).WaitAsync(Patience);
        writer.ShouldWait("it would change the sector from what it was before");
        reader.ShouldWait("it could meet half a sector");

        held.Release();
        await first.WaitAsync(Patience);
        writer.ShouldEnd();
        reader.ShouldEnd();
        image.ShouldRead(0, 100, 1).ShouldRead(100, 50, 2).ShouldRead(300, 50, 3).ShouldRead(SectorSize, 50, 4)
            .ShouldPassCheck();
    }

    [Theory]
    [InlineData(BlockOp.Read)]
    [InlineData(BlockOp.Write)]
    public void A_failed_request_reaches_the_guest_and_frees_the_sector(BlockOp op)
    {
        using TestImage image = Create("xts-plain64", extendedL2: false);
        image.Write(0, ClusterSize, 1).Device.Flush();
        image.Faults.Fail(new FaultRule { Op = op, Error = BlockErrorKind.Io });
        Assert.Throws<BlockException>(() => image.Write(100, 50, 2));
        image.Faults.Heal();
        image.ShouldRead(0, ClusterSize, 1).Write(100, 50, 3).ShouldRead(100, 50, 3).ShouldRead(150, 500, 1);
    }

    [Fact]
    public void Sectors_of_an_encrypted_image_have_no_place_that_others_could_read()
    {
        using TestImage image = Create("aes", extendedL2: false);
        image.Write(0, ClusterSize, 1);
        Extent extent = image.Device.GetExtent(0, ClusterSize);
        Assert.Equal(ExtentKind.Data, extent.Kind);
        Assert.Equal(-1, extent.HostOffset);
    }

    [Fact]
    public void A_grown_disk_is_encrypted_too()
    {
        using TestImage image = Create("xts-plain64", extendedL2: true);
        image.Write(0, 70_000, 1).Device.Resize(200L * ClusterSize);
        image.Write(150 * ClusterSize, 70_000, 2).Reopen().ShouldRead(0, 70_000, 1)
            .ShouldRead(150 * ClusterSize, 70_000, 2).ShouldPassCheck();
    }

    private static TestImage Create(string mode, bool extendedL2, byte[]? backing = null) => TestImage.Create(
        new Qcow2CreateOptions
        {
            Size = 64 * ClusterSize,
            ClusterSize = ClusterSize,
            ExtendedL2 = extendedL2,
            Encryption = EncryptedImages.Of(mode),
        },
        backing);
}
