// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Disks;

/// <summary>fio writes and verifies through the mount; qemu-img judges the image afterwards.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class FioTests
{
    [SkippableTheory]
    [InlineData("extended_l2=off")]
    [InlineData("extended_l2=on")]
    [InlineData("extended_l2=on,cluster_size=2M")]
    [InlineData("cluster_size=4k")]
    public void Four_jobs_of_random_sizes_and_offsets_verify(string options)
    {
        RunAndCheck(options, "512M",
            "--rw=randwrite", "--bsrange=512-256k", "--blockalign=512", "--size=64m", "--numjobs=4",
            "--offset_increment=128m", "--ioengine=libaio", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1",
            "--do_verify=1", "--fsync=200");
    }

    [SkippableFact]
    public void Two_writers_fill_the_subclusters_of_the_same_clusters_in_turn()
    {
        RunAndCheck("extended_l2=on,cluster_size=128k", "64M",
            "--ioengine=psync", "--bs=4k", "--rw=write:4k", "--size=32m", "--verify=crc32c", "--verify_fatal=1",
            "--do_verify=1", "--thread", "--name=even", "--offset=0", "--name=odd", "--offset=4k");
    }

    [SkippableTheory]
    [InlineData("extended_l2=off", "")]
    [InlineData("extended_l2=on", "writeback")]
    public void Buffered_and_direct_jobs_verify_side_by_side(string options, string mountOptions)
    {
        string[] common = ["--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--size=24m"];
        RunAndCheck(options, "128M", mountOptions,
        [
            "--ioengine=psync", .. common,
            "--name=buffered", "--direct=0", "--bs=1k", "--offset=0", "--end_fsync=1",
            "--name=more", "--direct=0", "--bs=4k", "--offset=32m", "--end_fsync=1",
            "--name=direct", "--direct=1", "--bs=96k", "--offset=64m",
        ]);
    }

    [SkippableTheory]
    [InlineData("extended_l2=off")]
    [InlineData("extended_l2=on")]
    public void Overlapping_allocating_writes_leave_a_sound_image(string options)
    {
        RunAndCheck(options, "64M",
            "--rw=randrw", "--bsrange=512-128k", "--blockalign=512", "--size=16m", "--numjobs=4", "--norandommap",
            "--ioengine=libaio", "--iodepth=8", "--fsync=50", "--io_size=64m");
    }

    private static void RunAndCheck(string options, string size, params string[] arguments) =>
        RunAndCheck(options, size, "", arguments);

    private static void RunAndCheck(string options, string size, string mountOptions, IReadOnlyList<string> arguments)
    {
        QemuTools.RequireTool("fio");
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        string image = directory.File("disk.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", options, image, size);
        string hash;
        using (MountedImage mounted = MountedImage.Start(
            image, directory.File("mnt"), mountOptions.Length > 0 ? ["-o", mountOptions] : []))
        {
            ProcessResult fio = ProcessRunner.Run(
                "fio",
                ["--filename=" + mounted.RawFile, "--direct=1", "--group_reporting", "--allow_file_create=0",
                    .. arguments[0].StartsWith("--ioengine", StringComparison.Ordinal) ? [] : (string[])["--name=job"],
                    .. arguments],
                directory.Path, timeout: TimeSpan.FromMinutes(5));
            fio.ShouldSucceed();
            hash = mounted.Hash();
            mounted.Unmount();
        }

        QemuTools.ShouldPassCheck(image);
        string raw = directory.File("converted.raw");
        QemuTools.Img("convert", "-f", "qcow2", "-O", "raw", image, raw);
        using FileStream converted = File.OpenRead(raw);
        Assert.Equal(Convert.ToHexString(System.Security.Cryptography.SHA256.HashData(converted)), hash);
    }
}
