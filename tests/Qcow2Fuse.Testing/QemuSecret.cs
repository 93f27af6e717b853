// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Linux.Crypto;
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>A passphrase in a file, and QEMU's tools run on images that it encrypts.</summary>
public sealed class QemuSecret
{
    private readonly string _path;

    /// <summary>Writes the passphrase into a file of <paramref name="directory"/>.</summary>
    public QemuSecret(TempDirectory directory, string passphrase = "correct horse", string name = "passphrase")
        : this(directory, Encoding.UTF8.GetBytes(passphrase), name)
    {
    }

    /// <summary>Writes the passphrase into a file of <paramref name="directory"/>.</summary>
    public QemuSecret(TempDirectory directory, byte[] passphrase, string name = "passphrase")
    {
        _path = directory.File(name);
        Passphrase = passphrase;
        File.WriteAllBytes(_path, Passphrase);
    }

    /// <summary>The file.</summary>
    public string Path => _path;

    /// <summary>Its content.</summary>
    public byte[] Passphrase { get; }

    /// <summary>The passphrase as the product takes it.</summary>
    public ImageSecrets Secrets => new(new SecretMemory(Passphrase));

    /// <summary>
    /// <c>qemu-img create</c> of an encrypted image. LUKS is made with few iterations; where QEMU cannot measure the
    /// processor, which happens on a busy machine, it tries again.
    /// </summary>
    /// <param name="image">The path.</param>
    /// <param name="format">luks or aes.</param>
    /// <param name="options">More options, each with a comma in front.</param>
    /// <param name="size">The disk's size, or null with a backing file.</param>
    public void Create(string image, string format, string options = "", string size = "4M")
    {
        string all = $"encrypt.format={format},encrypt.key-secret=s0" + options
            + (format is "luks" ? ",encrypt.iter-time=10" : "");
        for (int attempt = 1; ; attempt++)
        {
            ProcessResult result = QemuTools.TryImg(
                "create", "-q", "-f", "qcow2", "--object", Object, "-o", all, image, size);
            if (result.ExitCode == 0)
                return;
            if (attempt == 20 || !result.Error.Contains("CPU usage", StringComparison.Ordinal))
                result.ShouldSucceed();
        }
    }

    /// <summary>Adds a passphrase in a key slot.</summary>
    public void AddSlot(string image, int slot, QemuSecret added)
    {
        for (int attempt = 1; ; attempt++)
        {
            ProcessResult result = QemuTools.TryImg(
                "amend", "--object", Object, "--object", $"secret,id=s1,file={added.Path}", "-o",
                $"encrypt.state=active,encrypt.new-secret=s1,encrypt.keyslot={slot},encrypt.iter-time=10",
                "--image-opts", Options(image));
            if (result.ExitCode == 0)
                return;
            if (attempt == 20 || !result.Error.Contains("CPU usage", StringComparison.Ordinal))
                result.ShouldSucceed();
        }
    }

    /// <summary>Runs qemu-io commands; all must succeed.</summary>
    public void Io(string image, params IEnumerable<string> commands)
    {
        ProcessResult result = ProcessRunner.Run(
            "qemu-io",
            [
                .. commands.SelectMany(static command => new[] { "-c", command }), "--object", Object,
                "--image-opts", Options(image),
            ]);
        result.ShouldSucceed();
        if (result.Output.Contains("failed", StringComparison.OrdinalIgnoreCase))
            throw new InvalidOperationException($"qemu-io {image}: {result.Output}");
    }

    /// <summary>The guest's bytes as QEMU decrypts them.</summary>
    public byte[] ConvertToRaw(string image)
    {
        using TempDirectory directory = new();
        string raw = directory.File("converted.raw");
        QemuTools.Img("convert", "--object", Object, "--image-opts", Options(image), "-O", "raw", raw);
        return File.ReadAllBytes(raw);
    }

    /// <summary>Asserts that <c>qemu-img check</c> finds neither errors nor leaks.</summary>
    public void ShouldPassCheck(string image)
    {
        ProcessResult result = QemuTools.TryImg("check", "--object", Object, "--image-opts", Options(image));
        Assert.True(
            result.ExitCode == 0, $"qemu-img check: exit code {result.ExitCode}\n{result.Output}{result.Error}");
    }

    private string Object => $"secret,id=s0,file={_path}";

    private static string Options(string image) => $"driver=qcow2,encrypt.key-secret=s0,file.filename={image}";
}
