// SPDX-License-Identifier: MIT
using System.Text.Json.Nodes;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary>
/// <c>create</c> takes what <c>qemu-img create</c> takes, says what it says, and makes the same images.
/// </summary>
public sealed class CreateTests : CommandTest
{
    public static TheoryData<string, string> Requests => new()
    {
        { "", "64M" },
        { "", "1.5G" },
        { "", "1000" },
        { "cluster_size=4k", "10M" },
        { "cluster_size=512", "3M" },
        { "cluster_size=2M", "1T" },
        { "extended_l2=on", "100M" },
        { "extended_l2=on,cluster_size=16k", "100M" },
        { "compression_type=zstd", "64M" },
        { "compat=0.10", "64M" },
        { "compat=1.1,lazy_refcounts=off", "64M" },
        { "refcount_bits=1", "64M" },
        { "refcount_bits=64,cluster_size=1M", "64M" },
    };

    [SkippableTheory]
    [MemberData(nameof(Requests))]
    public void The_image_and_the_line_are_those_of_qemu_img(string options, string size)
    {
        QemuTools.RequireTool("qemu-img");
        string[] words = options.Length == 0 ? [] : ["-o", options];
        string theirs = QemuTools.Img(["create", "-f", "qcow2", .. words, PathOf("theirs.qcow2"), size]);
        ProcessResult ours = Run(["create", "-f", "qcow2", .. words, PathOf("ours.qcow2"), size]).ShouldSucceed();

        Assert.Equal(theirs.Replace("theirs", "ours", StringComparison.Ordinal), ours.Output);
        QemuTools.ShouldPassCheck(PathOf("ours.qcow2"));
        Assert.Equal(InfoOf("theirs.qcow2"), InfoOf("ours.qcow2"));
    }

    [SkippableTheory]
    [InlineData("")]
    [InlineData("cluster_size=4k")]
    [InlineData("cluster_size=8k")]
    [InlineData("compat=0.10")]
    public void The_first_cluster_names_the_features_where_that_of_qemu_img_does(string options)
    {
        QemuTools.RequireTool("qemu-img");
        string[] words = options.Length == 0 ? [] : ["-o", options];
        QemuTools.Img(["create", "-q", "-f", "qcow2", .. words, PathOf("theirs.qcow2"), "1M"]);
        Run(["create", "-q", "-f", "qcow2", .. words, PathOf("ours.qcow2"), "1M"]).ShouldSucceed();
        Assert.Equal(ExtensionsOf("theirs.qcow2"), ExtensionsOf("ours.qcow2"));
    }

    [SkippableTheory]
    [InlineData("encrypt.format=aes")]
    [InlineData("encrypt.format=luks,encrypt.iter-time=100,cluster_size=4k")]
    [InlineData("encrypt.format=luks,encrypt.cipher-alg=aes-128,encrypt.iter-time=20,compat=0.10")]
    [InlineData("encrypt.format=luks,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,"
        + "encrypt.hash-alg=sha512,encrypt.iter-time=20,extended_l2=on")]
    [InlineData("encrypt.format=luks,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain,encrypt.hash-alg=ripemd160,"
        + "encrypt.iter-time=1,cluster_size=512")]
    [Trait(Speed.Name, Speed.Slow)]
    public void Encrypted_images_are_opened_and_written_by_QEMU(string options)
    {
        QemuTools.RequireTool("qemu-io");
        using TempDirectory directory = new();
        QemuSecret secret = new(directory, "geheim");
        string image = PathOf("new.qcow2");
        ProcessResult made = Run("create", "--secret", $"file:{secret.Path}", "-o", options, image, "8M")
            .ShouldSucceed();
        Assert.StartsWith(
            $"Formatting '{image}', fmt=qcow2 {options.Split(',')[0]} ", made.Output, StringComparison.Ordinal);
        secret.ShouldPassCheck(image);
        byte[] expected = new byte[8 << 20];
        Assert.True(expected.AsSpan().SequenceEqual(secret.ConvertToRaw(image)), "a new image is not empty");
        secret.Io(image, "write -P 7 1000 2M");
        expected.AsSpan(1000, 2 << 20).Fill(7);
        Assert.True(expected.AsSpan().SequenceEqual(secret.ConvertToRaw(image)), "QEMU reads other bytes");
        secret.ShouldPassCheck(image);
        Assert.Contains("encrypted: yes", Run("info", image).ShouldSucceed().Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Trying_a_passphrase_takes_as_long_as_was_asked_for()
    {
        using TempDirectory directory = new();
        QemuSecret secret = new(directory);
        int[] rounds = [.. ((int[])[100, 1000]).Select(milliseconds =>
        {
            Run(
                "create", "-q", "--secret", $"file:{secret.Path}", "-o",
                $"encrypt.format=luks,encrypt.iter-time={milliseconds}", PathOf("new.qcow2"), "1M").ShouldSucceed();
            JsonNode info = JsonNode.Parse(Run("info", "--output=json", PathOf("new.qcow2")).ShouldSucceed().Output)!;
            return (int)info["format-specific"]!["data"]!["encrypt"]!["slots"]![0]!["iters"]!;
        })];
        Assert.InRange(rounds[1] / (double)rounds[0], 3, 33);
        Assert.True(rounds[1] > 50_000, $"only {rounds[1]} rounds in a second");
    }

    [SkippableTheory]
    [InlineData("encrypt.format=luks", "", "needs a passphrase")]
    [InlineData("encrypt.format=luks,encrypt.key-secret=s0", "file:/dev/null", "encrypt.key-secret")]
    [InlineData("encrypt.format=luks2", "file:key", "must be luks, aes")]
    [InlineData("encrypt.format=luks,encrypt.cipher-alg=serpent-256", "file:key", "must be aes-256, aes-128")]
    [InlineData("encrypt.format=luks,encrypt.iter-time=0", "file:key", "must be a number of milliseconds")]
    [InlineData("encrypt.format=luks,encrypt.nonsense=1", "file:key", "unknown option encrypt.nonsense")]
    [InlineData("encrypt.format=aes,encrypt.hash-alg=sha1", "file:key", "has no other options")]
    [InlineData("encrypt.cipher-alg=aes-256", "file:key", "format of the encryption is missing")]
    [InlineData("cluster_size=4k", "file:key", "format of the encryption is missing")]
    [InlineData("encrypt.format=luks", "geheim", "must be file:PATH")]
    [InlineData("encrypt.format=luks", "file:none", "none: the secret cannot be read")]
    [InlineData("encrypt.format=luks", "file:binary", "not text in UTF-8")]
    public void Encryption_that_makes_no_sense_is_refused_in_one_line(string options, string secret, string expected)
    {
        File.WriteAllText(PathOf("key"), "geheim");
        File.WriteAllBytes(PathOf("binary"), [1, 0xff, 2]);
        string[] given = secret.Length > 0 ? ["--secret", secret] : [];
        ProcessResult result = Run(["create", .. given, "-o", options, PathOf("new.qcow2"), "1M"]);
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, expected);
        Assert.DoesNotContain("geheim", result.Error, StringComparison.Ordinal);
        Assert.False(File.Exists(PathOf("new.qcow2")));
    }

    [SkippableTheory]
    [InlineData("/dev/full")]
    [InlineData("&-")]
    public void An_image_is_made_whoever_cannot_be_told(string output)
    {
        string program = FindProgram() ?? "";
        QemuTools.Require(program.Length > 0, "out/qcow2fuse is not built");
        ProcessResult result = ProcessRunner.Run(
            "sh", ["-c", $"exec \"$0\" create new.qcow2 8M >{output}", program], WorkDirectory);
        Assert.DoesNotContain("internal error", result.Error, StringComparison.Ordinal);
        QemuTools.RequireTool("qemu-img");
        QemuTools.ShouldPassCheck(PathOf("new.qcow2"));
    }

    [SkippableFact]
    public void Two_sizes_are_one_too_many()
    {
        ProcessResult result = Run("create", "-o", "size=64M", PathOf("new.qcow2"), "32M");
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, "the size is given twice");
        Assert.False(File.Exists(PathOf("new.qcow2")));
        Run("create", "-q", "-o", "size=64M", PathOf("new.qcow2")).ShouldSucceed();
    }

    [SkippableFact]
    public void An_overlay_takes_the_size_of_its_backing_file()
    {
        QemuTools.RequireTool("qemu-img");
        QemuTools.Img("create", "-q", "-f", "qcow2", PathOf("base.qcow2"), "123M");
        Run("create", "-q", "-b", "base.qcow2", "-F", "qcow2", PathOf("top.qcow2")).ShouldSucceed();

        string json = QemuTools.Img("info", "--output=json", PathOf("top.qcow2"));
        Assert.Contains("\"virtual-size\": 128974848", json, StringComparison.Ordinal);
        Assert.Contains("\"backing-filename\": \"base.qcow2\"", json, StringComparison.Ordinal);
        Assert.Contains("\"backing-filename-format\": \"qcow2\"", json, StringComparison.Ordinal);
        QemuTools.ShouldPassCheck(PathOf("top.qcow2"));
    }

    [SkippableTheory]
    [InlineData("cluster_size=3000")]
    [InlineData("cluster_size=4M")]
    [InlineData("extended_l2=on,cluster_size=4k")]
    [InlineData("refcount_bits=3")]
    [InlineData("compat=0.10,compression_type=zstd")]
    [InlineData("nonsense=1")]
    public void What_cannot_be_made_is_refused_in_one_line(string options)
    {
        ProcessResult result = Run("create", "-o", options, PathOf("new.qcow2"), "1M");
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result);
        Assert.False(File.Exists(PathOf("new.qcow2")));
    }

    [SkippableTheory]
    [InlineData("12X")]
    [InlineData("-5")]
    [InlineData("")]
    [InlineData("99999999999999999999")]
    [InlineData("8E")]
    public void A_size_that_is_none_is_refused(string size)
    {
        ProcessResult result = Run("create", PathOf("new.qcow2"), size);
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result);
    }

    [SkippableFact]
    public void An_image_in_use_is_not_overwritten()
    {
        QemuTools.RequireTool("qemu-storage-daemon");
        QemuTools.Img("create", "-q", "-f", "qcow2", PathOf("disk.qcow2"), "8M");
        byte[] before = File.ReadAllBytes(PathOf("disk.qcow2"));
        using StorageDaemon daemon = StorageDaemon.Open(PathOf("disk.qcow2"));

        ProcessResult result = Run("create", PathOf("disk.qcow2"), "16M");

        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, "in use");
        Assert.Equal(before, File.ReadAllBytes(PathOf("disk.qcow2")));
    }

    /// <summary>Everything in the first 4 KiB after the fixed fields.</summary>
    private string ExtensionsOf(string name)
    {
        byte[] image = File.ReadAllBytes(PathOf(name));
        return Convert.ToHexString(image.AsSpan(image[7] == 2 ? 72 : 112, 3900));
    }

    private string InfoOf(string name) => string.Join(
        '\n',
        QemuTools.Img("info", PathOf(name)).Split('\n')
            .Where(static line => !line.StartsWith("image:", StringComparison.Ordinal)
                && !line.StartsWith("disk size:", StringComparison.Ordinal)));
}
