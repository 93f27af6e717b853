// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>
/// A virtual machine in software (TCG) that boots Debian's kernel with an init of the test's own and has one disk.
/// <c>make test-boot</c> gets what it needs, more than 100 MB, and sets QCOW2FUSE_BOOT to the directory with
/// <c>vmlinuz</c>, the kernel's <c>modules</c> in the order to load them, and <c>busybox</c>.
/// </summary>
internal sealed class GuestMachine
{
    private const string LastWords = "GUEST DONE";
    private const int TailLines = 200;

    private readonly string _kit;
    private readonly string _directory;

    private GuestMachine(string kit, string directory)
    {
        _kit = kit;
        _directory = directory;
    }

    /// <summary>
    /// First lines of an init: the tools of busybox, /dev, /proc, the modules, /dev/vda, and how to end.
    /// </summary>
    private static string FirstLines =>
        $$"""
        #!/bin/busybox sh
        export PATH=/bin
        /bin/busybox --install -s /bin
        mount -t devtmpfs none /dev
        mount -t proc none /proc
        for module in $(ls /modules | sort -n); do insmod /modules/$module; done
        for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 1; done
        fail() { echo "GUEST FAILED: $*"; poweroff -n -f; }
        pass() { echo "{{LastWords}}"; poweroff -f; }

        """;

    /// <summary>Processors of the machine.</summary>
    public int Processors { get; init; } = 1;

    /// <summary>Its memory, in MiB.</summary>
    public int Mebibytes { get; init; } = 256;

    /// <summary>How long it may run until it powers itself off.</summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromMinutes(5);

    /// <summary>A machine whose files lie in a directory of the test; skips the test without make test-boot.</summary>
    /// <param name="directory">A new directory for it.</param>
    /// <param name="mebibytes">Memory of the machine, in MiB.</param>
    /// <param name="processors">Its processors.</param>
    public static GuestMachine Require(string directory, int mebibytes = 256, int processors = 1)
    {
        string? kit = Environment.GetEnvironmentVariable("QCOW2FUSE_BOOT");
        Skip.If(string.IsNullOrEmpty(kit), "needs QEMU and a kernel, more than 100 MB: make test-boot");
        Directory.CreateDirectory(directory);
        return new GuestMachine(kit!, directory) { Mebibytes = mebibytes, Processors = processors };
    }

    /// <summary>Runs the machine until it powers itself off, which it must in time and by <c>pass</c>.</summary>
    /// <param name="init">
    /// The script that runs in it as init, with the tools of busybox and /dev/vda. It ends with <c>pass</c>, or
    /// <c>fail WHY</c>.
    /// </param>
    /// <param name="drive">Its disk, as in QEMU's <c>-drive</c>, without format and interface.</param>
    /// <param name="variables">Environment of the script, as words <c>NAME=VALUE</c> without blanks.</param>
    /// <returns>What came over the serial console.</returns>
    public string Run(string init, string drive, params string[] variables)
    {
        string console = Path.Combine(_directory, "console");
        try
        {
            ProcessRunner.Run(
                "qemu-system-x86_64",
                ["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", $"{Processors}", "-m", $"{Mebibytes}",
                    "-nographic", "-no-reboot", "-nodefaults", "-serial", "file:" + console,
                    "-kernel", Path.Combine(_kit, "vmlinuz"), "-initrd", MakeInitialDisk(init),
                    "-append", "console=ttyS0 quiet panic=-1 " + string.Join(' ', variables),
                    "-drive", drive + ",format=raw,if=virtio"],
                timeout: Patience).ShouldSucceed();
        }
        catch (TimeoutException)
        {
            Assert.Fail($"the guest is not done after {Patience}\n{TailOf(console)}");
        }

        string said = File.ReadAllText(console);
        Assert.True(said.Contains(LastWords, StringComparison.Ordinal), $"the guest failed\n{TailOf(console)}");
        return said;
    }

    private static string TailOf(string console) => string.Join('\n', File.ReadLines(console).TakeLast(TailLines));

    /// <summary>Everything but /lib, /lib64 and /usr, which are looked for on the disk, mounted at /disk.</summary>
    private string MakeInitialDisk(string init)
    {
        QemuTools.RequireTool("cpio");
        string root = Path.Combine(_directory, "initial");
        foreach (string name in (string[])["bin", "dev", "proc", "sys", "run", "mnt", "disk", "inner", "modules"])
            Directory.CreateDirectory(Path.Combine(root, name));
        foreach (string name in (string[])["lib", "lib64", "usr"])
            File.CreateSymbolicLink(Path.Combine(root, name), "disk/" + name);
        File.Copy(Path.Combine(_kit, "busybox"), Path.Combine(root, "bin/busybox"));
        foreach (string module in Directory.EnumerateFiles(Path.Combine(_kit, "modules")))
            File.Copy(module, Path.Combine(root, "modules", Path.GetFileName(module)));
        File.WriteAllText(Path.Combine(root, "init"), (FirstLines + init).ReplaceLineEndings("\n") + "\n");
        string disk = Path.Combine(_directory, "initrd");
        ProcessRunner.Run(
            "sh",
            ["-ec", "cd \"$1\"; chmod 0755 init bin/busybox; find . | cpio -o -H newc --quiet > \"$2\"",
                "sh", root, disk]).ShouldSucceed();
        return disk;
    }
}
