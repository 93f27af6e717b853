// SPDX-License-Identifier: MIT
using System.Text.Json.Nodes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary><c>info</c> against <c>qemu-img info</c>, key by key and line by line.</summary>
public sealed class InfoTests : CommandTest
{
    public static TheoryData<string, string> Images => new()
    {
        { "compat=1.1", "64M" },
        { "compat=0.10", "64M" },
        { "cluster_size=4k", "1G" },
        { "cluster_size=2M", "1G" },
        { "extended_l2=on", "1G" },
        { "compression_type=zstd", "64M" },
        { "lazy_refcounts=on", "64M" },
        { "refcount_bits=1", "64M" },
        { "data_file=data.img", "64M" },
        { "data_file=data.img,data_file_raw=on", "64M" },
        { "backing_file=base.raw,backing_fmt=raw", "64M" },
        { "backing_file=sub/base.raw,backing_fmt=raw,compat=0.10", "64M" },
        { "compat=1.1", "1234567k" },
    };

    [SkippableTheory]
    [MemberData(nameof(Images))]
    public void Both_forms_are_those_of_qemu_img(string options, string size)
    {
        Directory.CreateDirectory(PathOf("sub"));
        File.WriteAllBytes(PathOf("base.raw"), new byte[1 << 20]);
        File.WriteAllBytes(PathOf("sub/base.raw"), new byte[1 << 20]);
        QemuTools.RequireTool("qemu-img");
        ProcessRunner.Run(
            "qemu-img",
            ["create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", size],
            WorkDirectory).ShouldSucceed();
        ShouldAgree("disk.qcow2");
    }

    [SkippableFact]
    public void Snapshots_are_listed_alike()
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.Img("create", "-q", "-f", "qcow2", PathOf("disk.qcow2"), "16M");
        QemuTools.Img("snapshot", "-c", "before", PathOf("disk.qcow2"));
        QemuTools.Io(PathOf("disk.qcow2"), "write -P 1 0 1M");
        QemuTools.Img("snapshot", "-c", "a name of more than sixteen letters", PathOf("disk.qcow2"));
        ShouldAgree("disk.qcow2");
    }

    [SkippableTheory]
    [InlineData("aes", "")]
    [InlineData("luks", "")]
    [InlineData("luks", ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,compat=0.10")]
    [Trait(Speed.Name, Speed.Slow)]
    public void Encryption_is_described_alike_without_a_passphrase(string format, string options)
    {
        QemuTools.RequireTool("qemu-img");
        using TempDirectory directory = new();
        new QemuSecret(directory).Create(PathOf("disk.qcow2"), format, options);
        ShouldAgree("disk.qcow2");
    }

    [SkippableFact]
    public void Bitmaps_are_listed_alike()
    {
        QemuTools.RequireTool("qemu-storage-daemon");
        QemuTools.Img("create", "-q", "-f", "qcow2", PathOf("disk.qcow2"), "16M");
        QemuTools.Img("bitmap", "--add", PathOf("disk.qcow2"), "nightly");
        QemuTools.Img("bitmap", "--add", "--disable", "-g", "2G", PathOf("disk.qcow2"), "a \"name\"");
        ShouldAgree("disk.qcow2");
        using (StorageDaemon.Open(PathOf("disk.qcow2")))
        {
            // Killed at the end of the block: both stay in use.
        }

        QemuTools.Img("bitmap", "--add", PathOf("disk.qcow2"), "new");
        ShouldAgree("disk.qcow2");
    }

    [SkippableFact]
    public void A_raw_file_is_raw()
    {
        QemuTools.RequireTool("qemu-img");
        File.WriteAllBytes(PathOf("disk.raw"), new byte[3 << 20]);
        ShouldAgree("disk.raw");

        // Disks are made of whole sectors.
        File.WriteAllBytes(PathOf("disk.raw"), new byte[(3 << 20) + 1]);
        ShouldAgree("disk.raw");
    }

    [SkippableTheory]
    [InlineData("vmdk")]
    [InlineData("vdi")]
    [InlineData("vpc")]
    [InlineData("vhdx")]
    [InlineData("qcow")]
    [InlineData("qed")]
    [InlineData("parallels")]
    public void An_image_of_another_format_is_called_what_it_is(string format)
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.Require(
            QemuTools.TryImg("create", "-q", "-f", format, PathOf("disk.img"), "8M").ExitCode == 0,
            $"qemu-img makes no {format} here");
        string hint = $"hint: qemu-img convert -f {format} -O qcow2 makes an image of it that is\n";
        string reason = $"is an image of the format {format}, which is not read here\n";
        ShouldPrint(1, "", $"qcow2fuse: DIR/disk.img: {reason}{hint}", "info", PathOf("disk.img"));
        ProcessResult check = Run("check", "disk.img");
        Assert.NotEqual(0, check.ExitCode);
        Assert.Contains(reason, check.Error, StringComparison.Ordinal);
        Assert.Contains(reason, Run("resize", "disk.img", "16M").Error, StringComparison.Ordinal);
        Assert.Contains(
            "file format: raw", Run("info", "-f", "raw", "disk.img").ShouldSucceed().Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Neither_backing_nor_data_file_is_opened()
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.RequireTool("strace");
        QemuTools.Img(
            "create", "-q", "-f", "qcow2", "-u", "-b", "secret.raw", "-F", "raw", PathOf("disk.qcow2"), "1M");
        File.WriteAllText(PathOf("secret.raw"), "never read");

        string program = FindProgram() ?? "";
        QemuTools.Require(program.Length > 0, "out/qcow2fuse is not built");
        ProcessRunner.Run(
            "strace",
            ["-f", "-o", PathOf("trace"), "-e", "trace=open,openat,openat2", program, "info", PathOf("disk.qcow2")])
            .ShouldSucceed();
        string trace = File.ReadAllText(PathOf("trace"));
        Assert.Contains("disk.qcow2", trace, StringComparison.Ordinal);
        Assert.DoesNotContain("secret.raw", trace, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void An_image_in_use_needs_force_share()
    {
        QemuTools.RequireTool("qemu-storage-daemon");
        QemuTools.Img("create", "-q", "-f", "qcow2", PathOf("disk.qcow2"), "8M");
        using StorageDaemon daemon = StorageDaemon.Open(PathOf("disk.qcow2"));

        ProcessResult refused = Run("info", "disk.qcow2");
        Assert.Equal(1, refused.ExitCode);
        OneLine.Error(refused, "qemu-storage");
        Assert.Contains(
            "virtual size: 8 MiB", Run("info", "-U", "disk.qcow2").ShouldSucceed().Output, StringComparison.Ordinal);
    }

    private void ShouldAgree(string name)
    {
        string theirs =
            ProcessRunner.Run("qemu-img", ["info", "--output=json", name], WorkDirectory).ShouldSucceed().Output;
        string ours = Run("info", "--output=json", name).ShouldSucceed().Output;
        Assert.Equal(Sorted(JsonNode.Parse(theirs)), Sorted(JsonNode.Parse(ours)));

        string text = ProcessRunner.Run("qemu-img", ["info", name], WorkDirectory).ShouldSucceed().Output;
        Assert.Equal(text, Run("info", name).ShouldSucceed().Output);
    }

    /// <summary>The keys in order of their names; what they hold keeps its type.</summary>
    private static string Sorted(JsonNode? node) => node switch
    {
        JsonObject entries => "{" + string.Join(
            ",\n",
            entries.OrderBy(static entry => entry.Key, StringComparer.Ordinal)
                .Select(static entry => $"{entry.Key}: {Sorted(entry.Value)}")) + "}",
        JsonArray items => "[" + string.Join(", ", items.Select(Sorted)) + "]",
        null => "null",
        _ => node.ToJsonString(),
    };
}
