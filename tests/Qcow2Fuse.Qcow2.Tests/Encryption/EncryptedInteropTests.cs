// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Encryption;

/// <summary>Encrypted images of either making, changed by one program and read by the other.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class EncryptedInteropTests : IDisposable
{
    private const int DiskBytes = (4 << 20) + 1536;

    private readonly TempDirectory _directory = new();

    public static IEnumerable<object[]> Matrix() =>
        from mode in (string[])["xts-plain64", "cbc-essiv:sha256", "cbc-plain64", "cbc-plain", "aes"]
        from layout in (string[])["64k", "4k", "512", "extended 64k", "extended 16k"]
        from backing in (bool[])[false, true]
        where mode is not "cbc-plain" || (layout is "4k" && !backing)
        where backing || layout is "64k" or "4k"
        select new object[] { mode, layout, backing };

    public void Dispose() => _directory.Dispose();

    [SkippableTheory]
    [MemberData(nameof(Matrix))]
    public void What_both_programs_write_is_what_both_read(string mode, string layout, bool backing)
    {
        QemuTools.RequireTool("qemu-io");
        QemuSecret secret = new(_directory);
        string image = Create(secret, mode, layout, backing);
        byte[] model = new byte[DiskBytes];
        if (backing)
            Stamp.Bytes(0, 3 << 20, 1).CopyTo(model, 0);
        int seed = mode.Length + (layout.Length * 100) + (backing ? 7 : 0);

        Change(image, secret, model, seed);
        secret.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(secret.ConvertToRaw(image)), "QEMU reads other bytes");

        secret.Io(image, QemuWrites(model, seed));
        Change(image, secret, model, seed + 1);
        secret.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(secret.ConvertToRaw(image)), "QEMU reads other bytes in the end");
    }

    [SkippableTheory]
    [InlineData("luks", "")]
    [InlineData("luks", ",encrypt.cipher-alg=aes-256,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv"
        + ",encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha512,cluster_size=4k")]
    [InlineData("luks", ",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain64"
        + ",encrypt.hash-alg=ripemd160,extended_l2=on")]
    [InlineData("luks", ",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=xts,encrypt.hash-alg=sha1"
        + ",cluster_size=512,compat=0.10")]
    [InlineData("aes", "")]
    [InlineData("aes", ",cluster_size=4k,compat=0.10")]
    public void Images_of_QEMUs_making(string format, string options)
    {
        QemuTools.RequireTool("qemu-io");
        QemuSecret secret = new(_directory);
        string image = _directory.File("image.qcow2");
        secret.Create(image, format, options, size: DiskBytes.ToString(CultureInfo.InvariantCulture));
        byte[] model = new byte[DiskBytes];
        secret.Io(image, QemuWrites(model, seed: 1));

        Change(image, secret, model, seed: 2);

        secret.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(secret.ConvertToRaw(image)), "QEMU reads other bytes");
    }

    [SkippableFact]
    public void Every_key_slot_opens_with_its_own_passphrase()
    {
        QemuTools.RequireTool("qemu-img");
        QemuSecret first = new(_directory), second = new(_directory, "second", "second");
        QemuSecret third = new(_directory, "dritte Pa\u00dfphrase", "third"), none = new(_directory, "none", "none");
        string image = _directory.File("image.qcow2");
        first.Create(image, "luks");
        first.Io(image, "write -P 7 0 1M");
        first.AddSlot(image, 1, second);
        first.AddSlot(image, 7, third);
        foreach (QemuSecret secret in (QemuSecret[])[first, second, third])
        {
            byte[] seen = new byte[1 << 20];
            using Qcow2Device device = Open(image, secret, readOnly: true);
            device.Read(0, seen);
            Assert.Equal(-1, seen.AsSpan().IndexOfAnyExcept((byte)7));
        }

        using FileDevice file = FileDevice.Open(image, readOnly: true);
        BlockException wrong = Assert.Throws<BlockException>(() => Qcow2Device.Open(
            file, new FormatOpenArguments { ReadOnly = true, Secrets = none.Secrets }));
        Assert.Equal($"{image}: the passphrase opens no key slot", wrong.Message);
        using ImageSecrets both = new(new SecretMemory(none.Passphrase), new SecretMemory(third.Passphrase));
        using Qcow2Device found = Qcow2Device.Open(
            FileDevice.Open(image, readOnly: true), new FormatOpenArguments { ReadOnly = true, Secrets = both });
        Assert.Equal(4 << 20, found.Length);
    }

    [SkippableFact]
    public void Two_images_of_a_chain_are_encrypted()
    {
        QemuTools.RequireTool("qemu-io");
        QemuSecret secret = new(_directory);
        string below = Create(secret, "cbc-essiv:sha256", "4k", backing: false);
        byte[] model = new byte[DiskBytes];
        Change(below, secret, model, seed: 3);
        string top = _directory.File("top.qcow2");
        using (FileDevice file = FileDevice.Create(top, replace: true))
            Qcow2Creator.Create(file, Options(secret, "xts-plain64", "64k") with
            {
                BackingFile = "image.qcow2",
                BackingFormat = "qcow2",
            });
        OpenedImage opened = new ImageOpener(new FileStorage(), [new Qcow2Format()])
            .Open(new ImageOpenOptions { Path = top, Secrets = secret.Secrets });
        using (opened)
            Change(opened.Device, model, seed: 4);

        ProcessResult result = QemuTools.TryImg(
            "convert", "--object", $"secret,id=s0,file={secret.Path}", "--image-opts",
            $"driver=qcow2,encrypt.key-secret=s0,file.filename={top},backing.driver=qcow2,"
            + $"backing.encrypt.key-secret=s0,backing.file.filename={below}", "-O", "raw", _directory.File("raw"));
        result.ShouldSucceed();
        Assert.True(model.AsSpan().SequenceEqual(File.ReadAllBytes(_directory.File("raw"))), "QEMU reads other bytes");
    }

    [SkippableTheory]
    [InlineData("luks")]
    [InlineData("aes")]
    public void An_external_data_file_is_read_by_its_own_offsets(string format)
    {
        QemuTools.RequireTool("qemu-io");
        QemuSecret secret = new(_directory);
        string image = _directory.File("image.qcow2"), data = _directory.File("data.img");
        secret.Create(image, format, $",data_file={data}", size: DiskBytes.ToString(CultureInfo.InvariantCulture));
        byte[] model = new byte[DiskBytes], seen = new byte[DiskBytes];
        secret.Io(image, QemuWrites(model, seed: 8));
        using Qcow2Device device = Qcow2Device.Open(
            FileDevice.Open(image, readOnly: true),
            new FormatOpenArguments
            {
                ReadOnly = true,
                Secrets = secret.Secrets,
                DataFile = FileDevice.Open(data, readOnly: true),
            });
        device.Read(0, seen);
        Assert.True(model.AsSpan().SequenceEqual(seen), "the engine reads other bytes");
    }

    [SkippableFact]
    public void A_snapshot_of_an_encrypted_image_keeps_its_content()
    {
        QemuTools.RequireTool("qemu-img");
        QemuSecret secret = new(_directory);
        string image = Create(secret, "xts-plain64", "4k", backing: false);
        byte[] model = new byte[DiskBytes];
        Change(image, secret, model, seed: 5);
        byte[] before = [.. model];
        string[] access =
        [
            "--object", $"secret,id=s0,file={secret.Path}", "--image-opts",
            $"driver=qcow2,encrypt.key-secret=s0,file.filename={image}",
        ];
        QemuTools.Img(["snapshot", "-c", "before", .. access]);
        Change(image, secret, model, seed: 6);
        secret.ShouldPassCheck(image);
        Assert.True(model.AsSpan().SequenceEqual(secret.ConvertToRaw(image)), "the present differs");
        QemuTools.Img(["convert", "-l", "before", .. access, "-O", "raw", _directory.File("old")]);
        Assert.True(before.AsSpan().SequenceEqual(File.ReadAllBytes(_directory.File("old"))), "the past has changed");
    }

    private string Create(QemuSecret secret, string mode, string layout, bool backing)
    {
        string image = _directory.File("image.qcow2");
        Qcow2CreateOptions options = Options(secret, mode, layout);
        if (backing)
        {
            File.WriteAllBytes(_directory.File("backing.raw"), Stamp.Bytes(0, 3 << 20, 1));
            options = options with { BackingFile = "backing.raw", BackingFormat = "raw" };
        }

        using FileDevice file = FileDevice.Create(image, replace: true);
        Qcow2Creator.Create(file, options);
        return image;
    }

    private static Qcow2CreateOptions Options(QemuSecret secret, string mode, string layout) => new()
    {
        Size = DiskBytes,
        ClusterSize = layout.Split(' ')[^1] switch { "64k" => 65536, "16k" => 16384, "4k" => 4096, _ => 512 },
        ExtendedL2 = layout.StartsWith("extended", StringComparison.Ordinal),
        Encryption = new EncryptionOptions
        {
            Secrets = secret.Secrets,
            Format = mode is "aes" ? EncryptionFormat.Aes : EncryptionFormat.Luks,
            CipherMode = mode,
            KeyBytes = mode.StartsWith("xts", StringComparison.Ordinal) ? 64 : 32,
            Iterations = 1000,
        },
    };

    private static void Change(string image, QemuSecret secret, byte[] model, int seed)
    {
        using Qcow2Device device = Open(image, secret, readOnly: false);
        Change(device, model, seed);
    }

    /// <summary>Checks that the device holds what the model holds, and changes both.</summary>
    private static void Change(BlockDevice device, byte[] model, int seed)
    {
        SeededRandom random = new((ulong)seed);
        byte[] seen = new byte[model.Length];
        device.Read(0, seen);
        Assert.True(model.AsSpan().SequenceEqual(seen), "the engine reads other bytes than were written before");
        for (int i = 0; i < 200; i++)
        {
            int length = 1 + random.Below(i % 7 == 0 ? 1_300_000 : 9000);
            int offset = random.Below(model.Length - length);
            switch (random.Below(8))
            {
                case 0:
                    device.Flush();
                    break;
                case 1:
                    device.WriteZeroes(offset, length, mayUnmap: random.Below(2) == 0);
                    model.AsSpan(offset, length).Clear();
                    break;
                case 2:
                    device.Discard(offset, length);
                    device.Read(offset, model.AsSpan(offset, length));
                    break;
                case 3:
                    byte[] piece = new byte[length];
                    device.Read(offset, piece);
                    Assert.True(model.AsSpan(offset, length).SequenceEqual(piece), $"{length} bytes at {offset}");
                    break;
                default:
                    byte[] data = Stamp.Bytes(offset, length, (ulong)(100 + i + (seed * 1000)));
                    device.Write(offset, data);
                    data.CopyTo(model, offset);
                    break;
            }
        }

        device.Read(0, seen);
        Assert.True(model.AsSpan().SequenceEqual(seen), "the engine reads other bytes than were written");
    }

    /// <summary>Writes of QEMU, also made on the model.</summary>
    private static List<string> QemuWrites(byte[] model, int seed)
    {
        SeededRandom random = new((ulong)seed);
        List<string> commands = [];
        for (int i = 0; i < 40; i++)
        {
            int length = 1 + random.Below(i % 7 == 0 ? 400_000 : 9000);
            int offset = random.Below(model.Length - length);
            byte value = (byte)(1 + random.Below(255));
            bool zero = random.Chance(20);
            commands.Add(zero ? $"write -z {offset} {length}" : $"write -P {value} {offset} {length}");
            model.AsSpan(offset, length).Fill(zero ? (byte)0 : value);
        }

        return commands;
    }

    private static Qcow2Device Open(string image, QemuSecret secret, bool readOnly)
    {
        string below = Path.Combine(Path.GetDirectoryName(image)!, "backing.raw");
        using ImageSecrets secrets = secret.Secrets;
        return Qcow2Device.Open(
            FileDevice.Open(image, readOnly),
            new FormatOpenArguments
            {
                ReadOnly = readOnly,
                Secrets = secrets,
                Backing = File.Exists(below) ? FileDevice.Open(below, readOnly: true) : null,
            });
    }
}
