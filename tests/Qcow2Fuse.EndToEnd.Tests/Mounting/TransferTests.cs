// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>
/// Requests that the daemon hands to the kernel as transfers, among all others: over io_uring, and by /dev/fuse with
/// O_DIRECT.
/// </summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class TransferTests : MountTest
{
    private const string Rings = "transport=uring";
    private const string Queued = "transport=fuse,cache=none";

    private const string Job = "--name=job --allow_file_create=0 --direct=1 --ioengine=libaio --iodepth=16";

    /// <summary>First writes allocate; then nearly all are transfers, between discards that free clusters.</summary>
    [SkippableTheory]
    [InlineData("compat=1.1", Rings)]
    [InlineData("extended_l2=on,cluster_size=128k", Rings)]
    [InlineData("cluster_size=4k,lazy_refcounts=on", "transport=uring,cache=none")]
    [InlineData("compat=1.1", "transport=uring,cache=writethrough")]
    [InlineData("compat=1.1", Queued)]
    [InlineData("extended_l2=on,cluster_size=128k", Queued)]
    [InlineData("cluster_size=4k,lazy_refcounts=on", Queued)]
    [InlineData("compat=1.1", "transport=fuse,cache=directsync")]
    public void Fio_verifies_overwrites_between_discards(string imageOptions, string mountOptions)
    {
        string image = NewImage("192M", imageOptions);
        string mountPoint = NewMountPoint();
        string raw = MountWithTransfers(image, mountPoint, mountOptions);
        string[] verified =
        [
            "--filename=" + raw, "--rw=randwrite", "--bsrange=4k-64k", "--size=24m", "--numjobs=3",
            "--offset_increment=32m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fsync=300",
            "--output=" + PathOf("fio.log"), "--loops=2",
        ];
        Fio(verified);
        using CancellationTokenSource stop = new();
        Task discards = Task.Run(() =>
        {
            for (int at = 96; !stop.IsCancellationRequested; at = at == 160 ? 96 : at + 8)
            {
                Tool("fallocate", "-p", "-o", $"{at}M", "-l", "6M", raw);
                Tool("dd", "if=/dev/urandom", $"of={raw}", "bs=1M", "count=6", $"seek={at}", "conv=notrunc,fsync",
                    "status=none");
            }
        });
        Fio(verified);
        Fio([.. verified, "--readwrite=randrw"]);
        stop.Cancel();
        Assert.True(discards.Wait(Eventually.Patience));
        Tool("cp", "--sparse=auto", raw, PathOf("copy"));
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
        Tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, PathOf("copy"));
    }

    [SkippableTheory]
    [InlineData("data_file", Rings)]
    [InlineData("backing", Rings)]
    [InlineData("raw", Rings)]
    [InlineData("data_file", Queued)]
    [InlineData("backing", Queued)]
    [InlineData("raw", Queued)]
    public void What_lies_in_other_files_is_reached(string kind, string mountOptions)
    {
        QemuTools.RequireTool("qemu-img");
        string image = PathOf(kind == "raw" ? "disk.img" : "disk.qcow2");
        byte[] below = Stamp.Bytes(0, 64 << 20, 3);
        File.WriteAllBytes(PathOf("below"), below);
        switch (kind)
        {
            case "raw":
                File.Copy(PathOf("below"), image);
                break;
            case "backing":
                QemuTools.Img("create", "-q", "-f", "qcow2", "-b", PathOf("below"), "-F", "raw", image);
                break;
            default:
                QemuTools.Img(
                    "create", "-q", "-f", "qcow2", "-o", $"data_file={PathOf("data")},data_file_raw=on", image, "64M");
                break;
        }

        string mountPoint = NewMountPoint();
        string raw = MountWithTransfers(
            image, mountPoint, kind == "raw" ? mountOptions + ",format=raw" : mountOptions);
        if (kind == "data_file")
            Tool("dd", $"if={PathOf("below")}", $"of={raw}", "bs=1M", "conv=notrunc", "status=none");
        Tool("dd", $"if={raw}", $"of={PathOf("seen")}", "bs=64k", "iflag=direct", "status=none");
        Assert.True(below.AsSpan().SequenceEqual(File.ReadAllBytes(PathOf("seen"))), "other bytes are read");
        Fio([
            "--filename=" + raw, "--rw=randwrite", "--bs=4k", "--size=16m", "--verify=crc32c", "--verify_fatal=1",
            "--do_verify=1", "--output=" + PathOf("fio.log"),
        ]);
        Tool("cp", raw, PathOf("copy"));
        Unmount(mountPoint);
        Tool("qemu-img", "compare", "-f", kind == "raw" ? "raw" : "qcow2", "-F", "raw", image, PathOf("copy"));
        Assert.True(below.AsSpan().SequenceEqual(File.ReadAllBytes(PathOf("below"))), "the file below was changed");
    }

    [SkippableTheory]
    [InlineData("kill -TERM", Rings)]
    [InlineData("kill -KILL", Rings)]
    [InlineData("umount -l", Rings)]
    [InlineData("umount -f -l", Rings)]
    [InlineData("kill -TERM", Queued)]
    [InlineData("kill -KILL", Queued)]
    [InlineData("umount -l", Queued)]
    [InlineData("umount -f -l", Queued)]
    public void It_ends_in_the_middle_of_transfers(string how, string mountOptions)
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = MountWithTransfers(image, mountPoint, mountOptions);
        Tool("dd", "if=/dev/urandom", "of=" + raw, "bs=1M", "count=64", "conv=notrunc,fsync", "status=none");
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Task<ProcessResult> load = BeginWriting(image, () => Task.Run(() => TryTool(
            "timeout", [
                "100", "fio", .. Job.Split(' '), "--filename=" + raw, "--rw=randrw", "--bsrange=4k-128k", "--numjobs=3",
                "--runtime=3", "--time_based", "--output=" + PathOf("fio.log"),
            ])));

        // Who has not opened the file by then finds none after a lazy unmount.
        WaitUntil(() => CountHolders("fio", raw) >= 3, "fio does not begin");
        if (how.StartsWith("kill", StringComparison.Ordinal))
            Signal(daemon, how[6..]);
        else if (TryTool("umount", [.. how.Split(' ')[1..], mountPoint]).ExitCode != 0)
            Assert.Equal("umount -f -l", how);
        Assert.True(load.Wait(Eventually.Patience), "fio hangs");
        WaitForEnd(daemon);

        // With -f umount ends the session first, and the daemon may take the mount down before it. After a lazy unmount
        // whoever has the file open goes on until he closes it.
        if (how == "umount -l")
            Assert.Equal(0, load.Result.ExitCode);
        if (how == "kill -KILL")
            Tool("umount", "-l", mountPoint);
        Assert.False(IsMounted(mountPoint));
        int verdict = QemuTools.TryImg("check", image).ExitCode;
        Assert.True(verdict is 0 or 3, $"qemu-img check: {verdict}");
    }

    [SkippableTheory]
    [InlineData(Rings)]
    [InlineData(Queued)]
    public void A_busy_mount_stays_and_goes_on(string mountOptions)
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = MountWithTransfers(image, mountPoint, mountOptions);
        Tool("dd", "if=/dev/zero", "of=" + raw, "bs=1M", "count=32", "conv=notrunc", "status=none");
        Task<ProcessResult> load = BeginWriting(image, () => Task.Run(() => TryTool(
            "fio", [
                .. Job.Split(' '), "--filename=" + raw, "--rw=randwrite", "--bs=4k", "--size=32m", "--runtime=2",
                "--time_based", "--output=" + PathOf("fio.log"),
            ])));

        // In use also where fio is done before umount has begun.
        using (File.OpenRead(raw))
            Assert.NotEqual(0, TryTool("umount", mountPoint).ExitCode);
        Assert.Equal(0, load.Result.ExitCode);
        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
    }

    /// <summary>Files of partitions are never cached; the disk's pages have to go when they are written.</summary>
    [SkippableTheory]
    [InlineData(Rings)]
    [InlineData(Queued)]
    public void A_transfer_through_a_partition_is_seen_through_the_disk(string mountOptions)
    {
        string image = NewImage();
        string mountPoint = NewMountPoint();
        string raw = MountWithTransfers(image, mountPoint, mountOptions);
        Tool("dd", "if=/dev/zero", "of=" + raw, "bs=1M", "count=16", "conv=notrunc", "status=none");
        Tool("sh", "-ec", "printf 'label: dos\\nstart=2048, size=20480\\n' | PATH=$PATH:/usr/sbin:/sbin "
            + "sfdisk -q --no-reread --no-tell-kernel \"$1\"", "sh", raw);
        string part = raw[..^4] + ".p1.raw";
        for (int round = 1; round <= 10; round++)
        {
            byte[] data = Stamp.Bytes(0, 65536, (ulong)round);
            File.WriteAllBytes(PathOf("data"), data);
            Tool("dd", $"if={PathOf("data")}", "of=" + part, "bs=64k", "conv=notrunc,fsync", "status=none");
            Tool("dd", "if=" + raw, $"of={PathOf("seen")}", "bs=64k", "skip=16", "count=1", "status=none");
            Assert.True(data.AsSpan().SequenceEqual(File.ReadAllBytes(PathOf("seen"))), $"round {round}: old data");
        }

        Unmount(mountPoint);
        QemuTools.ShouldPassCheck(image);
    }

    /// <summary>Mounts, and sees to it that there will be transfers.</summary>
    private string MountWithTransfers(string image, string mountPoint, string options)
    {
        if (options.StartsWith(Rings, StringComparison.Ordinal))
            return MountOverUring(image, mountPoint, options);
        string raw = Mount(image, mountPoint, "-o", options);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Assert.Contains("/[aio]", File.ReadAllText($"/proc/{daemon}/maps"), StringComparison.Ordinal);
        return raw;
    }

    private static void Fio(string[] arguments) => Tool("fio", [.. Job.Split(' '), .. arguments]);
}
