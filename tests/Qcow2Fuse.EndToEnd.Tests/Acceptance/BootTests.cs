// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>
/// A virtual machine with the raw file as its disk. <c>make test-boot</c> gets what it needs, more than 100 MB, and
/// sets QCOW2FUSE_BOOT to the directory with <c>vmlinuz</c>, the kernel's <c>modules</c> in the order to load them, and
/// <c>busybox</c>.
/// </summary>
public sealed class BootTests(ITestOutputHelper log) : MountTest
{
    private const int Mebibyte = 1 << 20;
    private const int PatternOffset = 100 * Mebibyte;
    private const int PatternBytes = 8 * Mebibyte;

    private static readonly TimeSpan BootTimeout = TimeSpan.FromMinutes(5);

    // The guest. /dev/vda is a file system of 96 MiB and free space behind it.
    private const string Init =
        """
        #!/bin/busybox sh
        export PATH=/bin
        /bin/busybox --install -s /bin
        mount -t devtmpfs none /dev
        mount -t proc none /proc
        for module in $(ls /modules | sort -n); do insmod /modules/$module; done
        for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 1; done
        fail() { echo "GUEST FAILED: $*"; poweroff -f; }
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
        echo "GUEST DONE"
        poweroff -f
        """;

    [SkippableTheory]
    [InlineData("extended_l2=on", "cache=none,aio=native,discard=unmap")]
    [InlineData("compat=1.1", "cache=writeback,aio=threads")]
    public void A_guest_boots_and_works_on_the_raw_file(string imageOptions, string drive)
    {
        string? kit = Environment.GetEnvironmentVariable("QCOW2FUSE_BOOT");
        Skip.If(string.IsNullOrEmpty(kit), "needs QEMU and a kernel, more than 100 MB: make test-boot");
        string image = NewImage("128M", imageOptions);
        string mountPoint = NewMountPoint();
        string raw = Mount(image, mountPoint);
        Directory.CreateDirectory(PathOf("tree"));
        for (int i = 0; i < 50; i++)
            File.WriteAllBytes(PathOf($"tree/host{i}"), Stamp.Bytes(0, 100_000 + (i * 1000), (ulong)i));
        Tool("sh", "-ec", "cd \"$1\"; sha256sum host* > sums", "sh", PathOf("tree"));
        Tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", PathOf("tree"), raw, "96M");

        Stopwatch booted = Stopwatch.StartNew();
        ProcessResult guest = ProcessRunner.Run(
            "qemu-system-x86_64",
            ["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-nographic", "-no-reboot", "-nodefaults",
                "-serial", "stdio", "-kernel", Path.Combine(kit!, "vmlinuz"), "-initrd", MakeInitialDisk(kit!),
                "-append", "console=ttyS0 quiet panic=-1", "-drive", $"file={raw},format=raw,if=virtio,{drive}"],
            timeout: BootTimeout);
        log.WriteLine(string.Create(
            CultureInfo.InvariantCulture, $"{booted.Elapsed.TotalSeconds:F1} s in the guest\n{guest.Output}"));
        Assert.True(guest.ExitCode == 0, guest.Output + guest.Error);
        Assert.Contains("GUEST DONE", guest.Output, StringComparison.Ordinal);
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

    private string MakeInitialDisk(string kit)
    {
        QemuTools.RequireTool("cpio");
        string root = PathOf("initial");
        foreach (string name in (string[])["bin", "dev", "proc", "mnt", "modules"])
            Directory.CreateDirectory(Path.Combine(root, name));
        File.Copy(Path.Combine(kit, "busybox"), Path.Combine(root, "bin/busybox"));
        foreach (string module in Directory.EnumerateFiles(Path.Combine(kit, "modules")))
            File.Copy(module, Path.Combine(root, "modules", Path.GetFileName(module)));
        File.WriteAllText(Path.Combine(root, "init"), Init.ReplaceLineEndings("\n") + "\n");
        Tool("chmod", "0755", Path.Combine(root, "init"), Path.Combine(root, "bin/busybox"));
        string disk = PathOf("initrd");
        Tool("sh", "-ec", "cd \"$1\"; find . | cpio -o -H newc --quiet > \"$2\"", "sh", root, disk);
        return disk;
    }
}
