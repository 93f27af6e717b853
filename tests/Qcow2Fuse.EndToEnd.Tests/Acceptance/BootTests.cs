// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>A virtual machine with the raw file as its disk; in <c>make test-boot</c> alone.</summary>
public sealed class BootTests(ITestOutputHelper log) : MountTest
{
    private const int Mebibyte = 1 << 20;
    private const int PatternOffset = 100 * Mebibyte;
    private const int PatternBytes = 8 * Mebibyte;

    // The guest. /dev/vda is a file system of 96 MiB and free space behind it.
    private const string Init =
        """
        mount -t ext4 /dev/vda /mnt || fail mount
        (cd /mnt && sha256sum -c sums) >/dev/null || fail "what the host wrote is wrong"
        for i in $(seq 200); do echo "file $i of the guest" > /mnt/guest$i; done
        dd if=/dev/urandom of=/mnt/large bs=64k count=256 2>/dev/null || fail write
        sync
        (cd /mnt && sha256sum large guest* > guestsums) || fail sums
        umount /mnt || fail umount
        yes "written by the guest" | head -c 8388608 > /pattern
        dd if=/pattern of=/dev/vda bs=1M seek=100 conv=fsync 2>/dev/null || fail pattern
        echo 3 > /proc/sys/vm/drop_caches
        dd if=/dev/vda bs=1M skip=100 count=8 2>/dev/null | cmp - /pattern || fail compare
        pass
        """;

    [SkippableTheory]
    [InlineData("extended_l2=on", "cache=none,aio=native,discard=unmap")]
    [InlineData("compat=1.1", "cache=writeback,aio=threads")]
    public void A_guest_boots_and_works_on_the_raw_file(string imageOptions, string drive)
    {
        GuestMachine machine = GuestMachine.Require(PathOf("machine"));
        string image = NewImage("128M", imageOptions);
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Directory.CreateDirectory(PathOf("tree"));
        for (int i = 0; i < 50; i++)
            File.WriteAllBytes(PathOf($"tree/host{i}"), Stamp.Bytes(0, 100_000 + (i * 1000), (ulong)i));
        Tool("sh", "-ec", "cd \"$1\"; sha256sum host* > sums", "sh", PathOf("tree"));
        Tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", PathOf("tree"), raw, "96M");

        Stopwatch booted = Stopwatch.StartNew();
        string console = machine.Run(Init, $"file={raw},{drive}");
        log.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"{booted.Elapsed.TotalSeconds:F1} s in the guest\n{console}"));
        Unmount(mountPoint);

        QemuTools.ShouldPassCheck(image);
        byte[] disk = QemuTools.ConvertToRaw(image);
        byte[] line = "written by the guest\n"u8.ToArray();
        for (int i = 0; i < PatternBytes; i++)
        {
            if (disk[PatternOffset + i] != line[i % line.Length])
                Assert.Fail($"the pattern is not at {PatternOffset + i}");
        }

        File.WriteAllBytes(PathOf("disk"), disk);
        Tool("e2fsck", "-fn", PathOf("disk"));
        Directory.CreateDirectory(PathOf("back"));
        Tool("debugfs", "-R", $"rdump / {PathOf("back")}", PathOf("disk"));
        Tool("sh", "-ec", "cd \"$1\"; sha256sum --quiet -c sums guestsums", "sh", PathOf("back"));
    }
}
