// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Text.Json.Nodes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary><c>check</c> against <c>qemu-img check</c>: text, JSON, exit codes, locks and bad arguments.</summary>
public sealed class CheckTests : CommandTest
{
    private const string Image = "disk.qcow2";
    private const int ClusterSize = 65536;
    private const ulong Copied = 1UL << 63;

    [SkippableTheory]
    [InlineData("compat=1.1")]
    [InlineData("compat=0.10")]
    [InlineData("extended_l2=on,cluster_size=2M")]
    [InlineData("cluster_size=512,refcount_bits=64")]
    [InlineData("preallocation=metadata")]
    [InlineData("data_file=data.img")]
    public void A_sound_image_prints_what_qemu_img_prints(string options)
    {
        Make(options);
        ShouldAgree(exitCode: 0);
    }

    [SkippableFact]
    public void Snapshots_and_compressed_clusters_are_counted_alike()
    {
        Make("cluster_size=4k");
        QemuTools.Img("snapshot", "-c", "one", PathOf(Image));
        QemuTools.Io(PathOf(Image), "write -P 7 100k 300k");
        ShouldAgree(exitCode: 0);
        QemuTools.Img("convert", "-c", "-O", "qcow2", PathOf(Image), PathOf("packed.qcow2"));
        File.Move(PathOf("packed.qcow2"), PathOf(Image), overwrite: true);
        ShouldAgree(exitCode: 0);
    }

    [SkippableFact]
    public void Leaks_end_with_3_and_are_given_back()
    {
        Make();
        Leak();
        byte[] before = File.ReadAllBytes(PathOf(Image));
        ShouldAgree(exitCode: 3);
        Assert.Equal(before, File.ReadAllBytes(PathOf(Image)));
        string disk = QemuTools.Img("dd", "-O", "raw", "bs=1M", "if=" + PathOf(Image), "of=" + PathOf("before.raw"));
        Assert.Empty(disk);
        File.Copy(PathOf(Image), PathOf("theirs.qcow2"));

        string theirs = Normal(ProcessRunner.Run(
            "qemu-img", ["check", "-r", "leaks", "theirs.qcow2"], WorkDirectory).ShouldSucceed().Output);
        Assert.Equal(theirs, Run("check", "-r", "leaks", Image).ShouldSucceed().Output);

        ShouldAgree(exitCode: 0);
        QemuTools.Img("compare", "-f", "qcow2", "-F", "raw", PathOf(Image), PathOf("before.raw"));
    }

    [SkippableFact]
    public void Counts_of_what_lies_behind_the_end_are_no_leaks()
    {
        Make();
        long block = (long)Peek((long)Peek(48));
        long clusters = (new FileInfo(PathOf(Image)).Length + ClusterSize - 1) / ClusterSize;
        Poke(block + (clusters * 2) + 16, 0x0001_0001_0001_0001);
        ShouldAgree(exitCode: 0);
    }

    [SkippableTheory]
    [InlineData(48, 1UL << 40)]
    [InlineData(48, 4096UL + 512)]
    public void A_refcount_table_that_is_not_there_ends_with_2(int field, ulong value)
    {
        Make();
        Poke(field, value);
        ProcessResult text = Run("check", Image);
        Assert.Equal(2, text.ExitCode);
        Assert.Contains("1 errors were found on the image.", text.Output, StringComparison.Ordinal);
        Assert.Contains("ERROR", text.Error, StringComparison.Ordinal);
        ProcessResult json = Run("check", "--output=json", Image);
        Assert.Equal((2, 1), (json.ExitCode, (int)JsonNode.Parse(json.Output)!["corruptions"]!));
    }

    [SkippableFact]
    public void A_repair_is_told_in_json()
    {
        Make();
        Leak();
        JsonNode json = JsonNode.Parse(
            Run("check", "-r", "leaks", "--output=json", Image).ShouldSucceed().Output)!;
        Assert.Equal(1, (int)json["leaks-fixed"]!);
        Assert.Null(json["leaks"]);
        Assert.Null(json["corruptions-fixed"]);
    }

    [SkippableFact]
    public void Damage_ends_with_2_and_is_listed()
    {
        Make();
        Poke(L2Entry(0), Copied | 0x60200);
        Poke(L2Entry(1), Peek(L2Entry(1)) & ~Copied);

        ProcessResult result = Run("check", Image);

        Assert.Equal(2, result.ExitCode);
        Assert.Contains("ERROR L2 entry 8000000000060200", result.Error, StringComparison.Ordinal);
        Assert.Contains("no COPIED flag", result.Error, StringComparison.Ordinal);
        Assert.Contains(" errors were found on the image.\nData may", result.Output, StringComparison.Ordinal);
        Assert.Equal(2, QemuTools.TryImg("check", PathOf(Image)).ExitCode);
    }

    [SkippableFact]
    public void A_repair_of_leaks_leaves_damage_alone()
    {
        Make();
        Leak();
        Poke(L2Entry(1), Copied | 0x60200);
        byte[] before = File.ReadAllBytes(PathOf(Image));

        ProcessResult result = Run("check", "-q", "-r", "leaks", Image);

        Assert.Equal(2, result.ExitCode);
        OneLine.Error(result, "nothing was repaired");
        Assert.Equal(before, File.ReadAllBytes(PathOf(Image)));
    }

    [SkippableFact]
    public void Quiet_prints_nothing()
    {
        Make();
        ShouldPrint(0, "", "", "check", "-q", Image);
        Leak();
        ShouldPrint(3, "", "", "check", "-q", Image);
    }

    [SkippableFact]
    public void Raw_images_end_with_63()
    {
        Make();
        File.WriteAllBytes(PathOf("disk.raw"), new byte[1 << 20]);
        foreach (string[] arguments in (string[][])[["check", "disk.raw"], ["check", "-f", "raw", Image]])
        {
            ProcessResult result = Run(arguments);
            Assert.Equal(63, result.ExitCode);
            Assert.Empty(result.Output);
            OneLine.Error(result, "raw");
        }
    }

    [SkippableFact]
    public void What_cannot_be_checked_ends_with_1()
    {
        Make();
        byte[] bytes = File.ReadAllBytes(PathOf(Image));
        File.WriteAllBytes(PathOf("short.qcow2"), bytes[..100]);
        File.WriteAllBytes(PathOf("table.qcow2"), bytes[..70_000]);
        foreach (string name in (string[])["short.qcow2", "table.qcow2", "missing.qcow2", "."])
        {
            ProcessResult result = Run("check", name);
            Assert.Equal(1, result.ExitCode);
            Assert.Empty(result.Output);
            OneLine.Error(result);
        }

        Assert.Equal(1, Run("check", "-f", "qcow2", "/dev/null").ExitCode);
    }

    [SkippableTheory]
    [InlineData("-r", "all")]
    [InlineData("-r", "everything")]
    [InlineData("-f", "vmdk")]
    [InlineData("--output", "yaml")]
    [InlineData("--frobnicate", "1")]
    [InlineData("-U", "-r", "leaks")]
    public void Arguments_that_make_no_sense_are_refused(params string[] arguments)
    {
        Make();
        byte[] before = File.ReadAllBytes(PathOf(Image));
        ProcessResult result = Run(["check", .. arguments, Image]);
        Assert.Equal(1, result.ExitCode);
        Assert.Empty(result.Output);
        OneLine.Error(result);
        Assert.Equal(before, File.ReadAllBytes(PathOf(Image)));
    }

    [SkippableFact]
    public void An_image_in_use_is_not_checked_unless_forced_and_never_repaired()
    {
        QemuTools.RequireTool("qemu-storage-daemon");
        Make();
        Leak();
        byte[] before = File.ReadAllBytes(PathOf(Image));
        using StorageDaemon daemon = StorageDaemon.Open(PathOf(Image));
        foreach (string[] arguments in (string[][])[["check", Image], ["check", "-r", "leaks", Image]])
        {
            ProcessResult refused = Run(arguments);
            Assert.Equal(1, refused.ExitCode);
            OneLine.Error(refused, "in use by qemu-storage");
            Assert.Contains("hint: ", refused.Error, StringComparison.Ordinal);
        }

        Assert.Equal(3, Run("check", "-U", Image).ExitCode);
        Assert.Equal(before, File.ReadAllBytes(PathOf(Image)));
    }

    [SkippableFact]
    public void An_image_that_is_read_by_others_can_be_checked()
    {
        QemuTools.RequireTool("qemu-storage-daemon");
        Make();
        using StorageDaemon daemon = StorageDaemon.Open(PathOf(Image), readOnly: true);
        Run("check", Image).ShouldSucceed();
    }

    [SkippableFact]
    public void Neither_backing_nor_data_file_is_opened()
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.RequireTool("strace");
        QemuTools.Img(
            "create", "-q", "-f", "qcow2", "-u", "-b", "secret.raw", "-F", "raw", PathOf(Image), "1M");
        File.WriteAllText(PathOf("secret.raw"), "never read");
        string program = FindProgram() ?? "";
        QemuTools.Require(program.Length > 0, "out/qcow2fuse is not built");
        ProcessRunner.Run(
            "strace",
            ["-f", "-o", PathOf("trace"), "-e", "trace=open,openat,openat2", program, "check", PathOf(Image)])
            .ShouldSucceed();
        string trace = File.ReadAllText(PathOf("trace"));
        Assert.Contains(Image, trace, StringComparison.Ordinal);
        Assert.DoesNotContain("secret.raw", trace, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void An_encrypted_image_needs_no_key()
    {
        QemuTools.RequireTool("qemu-img");
        ProcessResult made = QemuTools.TryImg(
            "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=50", PathOf(Image), "8M");
        Skip.If(made.ExitCode != 0, "qemu-img cannot measure how fast this machine is: " + made.Error);
        Run("check", Image).ShouldSucceed();
    }

    private void Make(string options = "compat=1.1")
    {
        QemuTools.RequireTool("qemu-img");
        ProcessRunner.Run(
            "qemu-img", ["create", "-q", "-f", "qcow2", "-o", options, Image, "8M"], WorkDirectory).ShouldSucceed();
        ProcessRunner.Run(
            "qemu-io", ["-c", "write -P 1 0 1M", "-c", "write -P 2 3M 64k", Image], WorkDirectory).ShouldSucceed();
    }

    /// <summary>Takes a cluster out of the L2 table.</summary>
    private void Leak() => Poke(L2Entry(48), 0);

    private long L2Entry(int index) => (long)(Peek((long)Peek(40)) & ~Copied) + (index * 8);

    private ulong Peek(long offset) =>
        BinaryPrimitives.ReadUInt64BigEndian(File.ReadAllBytes(PathOf(Image)).AsSpan((int)offset));

    private void Poke(long offset, ulong value)
    {
        Assert.True(offset >= 48, "the magic and the size of clusters stay");
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, value);
        using FileStream file = File.OpenWrite(PathOf(Image));
        file.Position = offset;
        file.Write(bytes);
    }

    private void ShouldAgree(int exitCode)
    {
        ProcessResult theirs = ProcessRunner.Run("qemu-img", ["check", Image], WorkDirectory);
        ProcessResult ours = Run("check", Image);
        Assert.Equal(exitCode, theirs.ExitCode);
        Assert.Equal(exitCode, ours.ExitCode);
        Assert.Equal(theirs.Output, ours.Output);

        JsonObject Json(ProcessResult result) => JsonNode.Parse(result.Output)!.AsObject();
        JsonObject theirJson = Json(ProcessRunner.Run("qemu-img", ["check", "--output=json", Image], WorkDirectory));
        JsonObject ourJson = Json(Run("check", "--output=json", Image));
        Assert.Equal(
            theirJson.Select(static pair => $"{pair.Key}: {pair.Value}").Order(StringComparer.Ordinal),
            ourJson.Select(static pair => $"{pair.Key}: {pair.Value}").Order(StringComparer.Ordinal));
    }

    private static string Normal(string output) => output.Replace("theirs.qcow2", Image, StringComparison.Ordinal);
}
