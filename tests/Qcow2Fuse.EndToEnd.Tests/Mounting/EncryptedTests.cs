// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>Encrypted images, and every way to give a passphrase.</summary>
public sealed class EncryptedTests : MountTest
{
    private const string Passphrase = "Xyzzy-passphrase-0815";
    private const int Written = 3 << 20;

    private readonly TempDirectory _secrets = new();

    [SkippableFact]
    public void A_passphrase_from_a_file()
    {
        QemuSecret secret = NewSecret();
        string image = NewEncrypted(secret, "aes");
        string raw = Mount(image, NewMountPoint(), "--secret", $"file:{secret.Path}");
        ShouldBeReadAndWritten(raw, image, secret);
    }

    [SkippableFact]
    public void A_passphrase_from_a_mount_option()
    {
        QemuSecret secret = NewSecret();
        string image = NewEncrypted(secret, "aes");
        string raw = Mount(image, NewMountPoint(), "-o", $"cache=none,secret=file:{secret.Path},noatime");
        ShouldBeReadAndWritten(raw, image, secret);
    }

    [SkippableFact]
    public void A_passphrase_from_a_settings_file()
    {
        QemuSecret secret = NewSecret();
        string image = NewEncrypted(secret, "aes");
        Directory.CreateDirectory(PathOf("settings/qcow2fuse"));
        File.WriteAllText(
            PathOf("settings/qcow2fuse/qcow2fuse.json"), $$"""{ "secret": ["file:{{secret.Path}}"] }""");
        SetEnvironment("XDG_CONFIG_HOME", PathOf("settings"));
        string raw = Mount(image, NewMountPoint());
        ShouldBeReadAndWritten(raw, image, secret);
    }

    [SkippableFact]
    public void A_passphrase_from_a_systemd_credential()
    {
        QemuSecret secret = NewSecret("disk-key");
        string image = NewEncrypted(secret, "aes");
        SetEnvironment("CREDENTIALS_DIRECTORY", _secrets.Path);
        string raw = Mount(image, NewMountPoint(), "--secret", "credential:disk-key");
        ShouldBeReadAndWritten(raw, image, secret);
    }

    [SkippableTheory]
    [InlineData("7<", "fd:7", "")]
    [InlineData("<", "fd:0", "")]
    [InlineData("<", "fd:0", "-o secret=fd:0")]
    [InlineData("cat {0} |", "fd:0", "")]
    public void A_passphrase_from_a_descriptor(string redirection, string source, string more)
    {
        QemuSecret secret = NewSecret();
        string image = NewEncrypted(secret, "aes");
        string mountPoint = NewMountPoint();
        string program = FindProgram() ?? "";
        QemuTools.Require(program.Length > 0, "out/qcow2fuse is not built");
        bool isPipe = redirection.StartsWith("cat", StringComparison.Ordinal);
        string option = more.Length > 0 ? more : $"--secret {source}";
        string command = isPipe
            ? $"cat {secret.Path} | {program} mount {option} {image} {mountPoint}"
            : $"{program} mount {option} {image} {mountPoint} {redirection}{secret.Path}";
        Tool("bash", "-c", command);
        int daemon = Assert.Single(DaemonsOf(mountPoint));
        Assert.DoesNotContain(
            Directory.EnumerateFiles($"/proc/{daemon}/fd").Select(static fd => new FileInfo(fd).LinkTarget),
            target => string.Equals(target, secret.Path, StringComparison.Ordinal));
        ShouldBeReadAndWritten(RawFileOf(image, mountPoint), image, secret);
    }

    [SkippableFact]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_LUKS_image_of_QEMUs_making()
    {
        QemuSecret secret = NewSecret();
        string image = NewEncrypted(secret, "luks");
        ProcessResult bare = Run("mount", image, NewMountPoint());
        Assert.Equal(32, bare.ExitCode);
        OneLine.Error(bare, "the image is encrypted (LUKS)");
        Assert.Contains("--secret file:PATH", bare.Error, StringComparison.Ordinal);

        QemuSecret wrong = new(_secrets, "wrong", "wrong"), newline = new(_secrets, Passphrase + "\n", "newline");
        ProcessResult refused = Run("mount", "--secret", $"file:{wrong.Path}", image, NewMountPoint());
        Assert.Equal(32, refused.ExitCode);
        OneLine.Error(refused, "the passphrase opens no key slot");
        refused = Run("mount", "--secret", $"file:{newline.Path}", image, NewMountPoint());
        Assert.Contains("hint: the passphrase ends with a newline", refused.Error, StringComparison.Ordinal);
        Assert.False(IsMounted(PathOf("mnt")));

        string raw = Mount(
            image, NewMountPoint(), "--secret", $"file:{wrong.Path}", "--secret", $"file:{secret.Path}");
        ShouldBeReadAndWritten(raw, image, secret);
    }

    [SkippableTheory]
    [InlineData("snapshot", "-c", "one", "{0}")]
    [InlineData("resize", "{0}", "+1M")]
    [InlineData("bitmap", "--add", "{0}", "b0")]
    [Trait(Speed.Name, Speed.Slow)]
    public void A_command_that_advises_a_passphrase_takes_one(params string[] arguments)
    {
        QemuSecret secret = NewSecret();
        string image = NewEncrypted(secret, "luks");
        arguments = [.. arguments.Select(argument => argument.Replace("{0}", image, StringComparison.Ordinal))];
        ProcessResult refused = Run(arguments);
        Assert.Equal(1, refused.ExitCode);
        Assert.EndsWith("hint: give the passphrase with --secret file:PATH\n", refused.Error, StringComparison.Ordinal);
        Run([.. arguments, "--secret", $"file:{secret.Path}"]).ShouldSucceed();
    }

    [SkippableFact]
    public void The_passphrase_is_in_no_command_line_and_no_environment()
    {
        QemuSecret secret = NewSecret();
        string image = NewEncrypted(secret, "aes");
        string mountPoint = NewMountPoint();
        Mount(image, mountPoint, "--secret", $"file:{secret.Path}");
        foreach (string process in Directory.EnumerateDirectories("/proc"))
        {
            if (!int.TryParse(Path.GetFileName(process), out int id) || id == Environment.ProcessId)
                continue;
            foreach (string file in (string[])["cmdline", "environ"])
                Assert.False(Contains(Path.Combine(process, file)), $"{process}/{file} has the passphrase");
        }

        Unmount(mountPoint);
    }

    [SkippableTheory]
    [InlineData("file:/nowhere/key", 32, "/nowhere/key: the secret cannot be read: No such file or directory")]
    [InlineData("file:/", 32, "Is a directory")]
    [InlineData("file:/dev/null", 32, "/dev/null: the secret is empty")]
    [InlineData("file:/dev/zero", 32, "/dev/zero: the secret is longer than 65536 bytes")]
    [InlineData("fd:199", 32, "fd:199: the caller has not opened it")]
    [InlineData("fd:0", 32, "fd:0: the secret is empty")]
    [InlineData("credential:none", 32, "credential:none: there are no credentials here")]
    [InlineData("credential:../key", 1, "option secret: must be file:PATH")]
    [InlineData("fd:1", 1, "option secret: must be file:PATH")]
    [InlineData("fd:-1", 1, "option secret: must be file:PATH")]
    [InlineData("file:", 1, "option secret: must be file:PATH")]
    public void A_secret_that_cannot_be_had_is_one_sentence(string source, int exitCode, string expected)
    {
        QemuSecret secret = NewSecret();
        string image = NewEncrypted(secret, "aes");
        SetEnvironment("CREDENTIALS_DIRECTORY", null);
        ProcessResult result = Run("mount", "--secret", source, image, NewMountPoint());
        Assert.Equal(exitCode, result.ExitCode);
        OneLine.Error(result, expected);
    }

    [SkippableFact]
    public void A_passphrase_given_by_mistake_is_not_repeated()
    {
        ProcessResult result = Run("mount", "-o", $"secret={Passphrase}", "a.qcow2", WorkDirectory);
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, "option secret: must be file:PATH");
        Assert.DoesNotContain(Passphrase, result.Error, StringComparison.Ordinal);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (disposing)
            _secrets.Dispose();
    }

    private QemuSecret NewSecret(string name = "key") => new(_secrets, Passphrase, name);

    private string NewEncrypted(QemuSecret secret, string format)
    {
        RequireMounting();
        QemuTools.RequireTool("qemu-io");
        string image = PathOf("disk.qcow2");
        secret.Create(image, format, size: "16M");
        secret.Io(image, "write -P 165 0 3M");
        return image;
    }

    /// <summary>Reads what QEMU wrote, writes, unmounts, and lets QEMU read it.</summary>
    private void ShouldBeReadAndWritten(string raw, string image, QemuSecret secret)
    {
        byte[] expected = new byte[16 << 20];
        expected.AsSpan(0, Written).Fill(165);
        Assert.True(expected.AsSpan().SequenceEqual(File.ReadAllBytes(raw)), "other bytes than QEMU wrote");
        byte[] data = Stamp.Bytes(0, 300_001, 5);
        using (FileStream file = new(raw, FileMode.Open, FileAccess.ReadWrite))
        {
            foreach (long offset in (long[])[1000, Written - 77_777, 9 << 20])
            {
                file.Position = offset;
                file.Write(data);
                data.CopyTo(expected, offset);
            }

            file.Flush(flushToDisk: true);
        }

        Unmount(Path.GetDirectoryName(raw)!);
        secret.ShouldPassCheck(image);
        Assert.True(expected.AsSpan().SequenceEqual(secret.ConvertToRaw(image)), "QEMU reads other bytes");
        byte[] file2 = File.ReadAllBytes(image);
        Assert.True(file2.AsSpan().IndexOf(data.AsSpan(64, 64)) < 0, "the image holds plain data");
    }

    private static bool Contains(string file)
    {
        try
        {
            return File.ReadAllBytes(file).AsSpan().IndexOf(Encoding.UTF8.GetBytes(Passphrase)) >= 0;
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // The process has ended.
            return false;
        }
    }
}
