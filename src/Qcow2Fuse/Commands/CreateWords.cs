// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Output;
using Qcow2Fuse.Qcow2.Creation;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary>What <c>create</c> was asked for, with the names and defaults of <c>qemu-img create</c>.</summary>
internal sealed class CreateWords
{
    private const int ClusterSizeMin = 512;
    private const int ClusterSizeMax = 2 << 20;
    private const int ExtendedClusterSizeMin = 16 << 10;

    private int _clusterSize = 65536;
    private int _refcountBits = 16;
    private string? _compat;
    private bool _extendedL2;
    private CompressionType _compression = CompressionType.Deflate;

    private CreateWords(string file, string format)
    {
        File = file;
        IsRaw = format switch
        {
            "raw" => true,
            "qcow2" => false,
            _ => throw CommandException.Usage($"unknown format {format}", $"the formats are {ImageFormats.Names}"),
        };
    }

    /// <summary>The image to make.</summary>
    public string File { get; }

    /// <summary>Raw instead of qcow2.</summary>
    public bool IsRaw { get; }

    /// <summary>Size of the disk in bytes; null to take the backing file's.</summary>
    public long? Size { get; private set; }

    /// <summary>Name of the backing file as the image is to hold it; or null.</summary>
    public string? BackingFile { get; private set; }

    /// <summary>Whether and how the image is encrypted.</summary>
    public EncryptionRequest Encryption { get; } = new();

    /// <summary>Where the passphrase comes from; null for none.</summary>
    public SecretSource? Secret { get; private set; }

    /// <summary>Its format: qcow2 or raw.</summary>
    public string? BackingFormat { get; private set; }

    /// <summary>Reads the parts of a command line.</summary>
    /// <exception cref="CommandException">They make no sense.</exception>
    public static CreateWords From(
        string file, string? size, string format, IEnumerable<string> words, string? backing, string? backingFormat,
        string? secret = null)
    {
        CreateWords request = new(file, format);
        foreach (string word in words.SelectMany(static list => list.Split(',', StringSplitOptions.RemoveEmptyEntries)))
        {
            int equals = word.IndexOf('=', StringComparison.Ordinal);
            if (equals < 0)
                throw CommandException.Usage($"option {word} needs a value");
            request.Set(word[..equals], word[(equals + 1)..]);
        }

        request.BackingFile = backing ?? request.BackingFile;
        request.BackingFormat = backingFormat ?? request.BackingFormat;
        if (size is not null && request.Size is not null)
            throw CommandException.Usage("the size is given twice, by itself and as an option");
        if (size is not null)
            request.Size = ParseSize("size", size);
        request.SetSecret(secret);
        request.Check();
        return request;
    }

    /// <summary>The line that <c>qemu-img create</c> prints.</summary>
    public string Describe(long size)
    {
        StringBuilder line = new();
        line.Append(CultureInfo.InvariantCulture, $"Formatting '{File}', fmt={(IsRaw ? "raw" : "qcow2")}");
        if (!IsRaw)
        {
            line.Append(Encryption.Describe());
            line.Append(CultureInfo.InvariantCulture, $" cluster_size={_clusterSize} extended_l2={OnOff(_extendedL2)}");
            line.Append(_compression == CompressionType.Zstd ? " compression_type=zstd" : " compression_type=zlib");
        }

        line.Append(CultureInfo.InvariantCulture, $" size={size}");
        if (IsRaw)
            return line.ToString();
        if (_compat is not null)
            line.Append(CultureInfo.InvariantCulture, $" compat={_compat}");
        if (BackingFile is not null)
            line.Append(CultureInfo.InvariantCulture, $" backing_file={BackingFile} backing_fmt={BackingFormat}");
        line.Append(CultureInfo.InvariantCulture, $" lazy_refcounts=off refcount_bits={_refcountBits}");
        return line.ToString();
    }

    /// <summary>What the engine makes of it.</summary>
    public Qcow2CreateOptions ToOptions(long size, ImageSecrets? secrets) => new()
    {
        Size = size,
        Version = IsVersion2 ? 2 : 3,
        ClusterSize = _clusterSize,
        ExtendedL2 = _extendedL2,
        RefcountBits = _refcountBits,
        BackingFile = BackingFile,
        BackingFormat = BackingFormat,
        Compression = _compression,
        Encryption = Encryption.ToOptions(secrets),
    };

    private bool IsVersion2 => _compat is "0.10" or "v2";

    private void Set(string name, string value)
    {
        switch (name)
        {
            case "size":
                Size = ParseSize(name, value);
                return;
            case "backing_file":
                BackingFile = value;
                return;
            case "backing_fmt":
                BackingFormat = value;
                return;
        }

        if (IsRaw)
            throw CommandException.Usage($"unknown option {name} for the format raw");
        if (name.StartsWith(EncryptionRequest.Prefix, StringComparison.Ordinal))
        {
            Encryption.Set(name, value);
            return;
        }

        switch (name)
        {
            case "cluster_size":
                _clusterSize = (int)Math.Min(ParseSize(name, value), int.MaxValue);
                break;
            case "refcount_bits":
                _refcountBits = value is "1" or "2" or "4" or "8" or "16" or "32" or "64"
                    ? int.Parse(value, CultureInfo.InvariantCulture)
                    : throw Invalid(name, value, "must be a power of two of 1 to 64");
                break;
            case "compat":
                _compat = value is "0.10" or "1.1" or "v2" or "v3"
                    ? value
                    : throw Invalid(name, value, "must be 0.10 or 1.1");
                break;
            case "extended_l2":
                _extendedL2 = ParseSwitch(name, value);
                break;
            case "compression_type":
                _compression = value switch
                {
                    "zlib" => CompressionType.Deflate,
                    "zstd" => CompressionType.Zstd,
                    _ => throw Invalid(name, value, "must be zlib or zstd"),
                };
                break;
            case "lazy_refcounts" when !ParseSwitch(name, value):
            case "preallocation" when value is "off":
                break;
            case "lazy_refcounts" or "preallocation" or "data_file" or "data_file_raw" or "encryption":
                throw CommandException.Usage($"option {name}={value} is not supported yet");
            default:
                throw CommandException.Usage(
                    $"unknown option {name}", $"{Report.ProgramName} create --help lists the options");
        }
    }

    private void SetSecret(string? secret)
    {
        try
        {
            Secret = secret is null ? null : SecretSource.Parse(secret);
        }
        catch (FormatException exception)
        {
            throw CommandException.Usage($"option --secret: {exception.Message}", inner: exception);
        }
    }

    private void Check()
    {
        Encryption.Check(Secret is not null);
        if (BackingFormat is not null && BackingFile is null)
            throw CommandException.Usage("a backing format needs a backing file (-b)");
        if (BackingFile is not null && IsRaw)
            throw CommandException.Usage("the format raw has no backing files");
        if (BackingFile is not null && BackingFormat is not ("qcow2" or "raw"))
        {
            throw CommandException.Usage(
                BackingFormat is null
                    ? "a backing file needs its format, which is never guessed"
                    : $"unknown backing format {BackingFormat}",
                "add -F qcow2 or -F raw");
        }

        int least = _extendedL2 ? ExtendedClusterSizeMin : ClusterSizeMin;
        if (!int.IsPow2(_clusterSize) || _clusterSize < least || _clusterSize > ClusterSizeMax)
        {
            throw Invalid(
                "cluster_size",
                _clusterSize.ToString(CultureInfo.InvariantCulture),
                $"must be a power of two of {least} to {ClusterSizeMax}");
        }

        if (IsVersion2 && (_extendedL2 || _refcountBits != 16 || _compression != CompressionType.Deflate))
            throw CommandException.Usage($"compat={_compat} has no extended_l2, refcount_bits or compression_type");
    }

    private static string OnOff(bool value) => value ? "on" : "off";

    private static bool ParseSwitch(string name, string value) => value switch
    {
        "on" or "true" or "yes" => true,
        "off" or "false" or "no" => false,
        _ => throw Invalid(name, value, "must be on or off"),
    };

    private static long ParseSize(string name, string value) => SizeText.TryParse(value, out long size)
        ? size
        : throw Invalid(name, value, "must be a number of bytes, or one with a suffix k M G T P E");

    private static CommandException Invalid(string name, string value, string what) =>
        CommandException.Usage($"{name}={value}: {what}");
}
