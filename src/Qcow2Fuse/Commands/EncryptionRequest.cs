// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Output;
using Qcow2Fuse.Qcow2.Encryption;

namespace Qcow2Fuse.Commands;

/// <summary>
/// The options <c>encrypt.*</c> of <c>create</c>, with the names and defaults of <c>qemu-img create</c>. The passphrase
/// comes from <c>--secret</c>, which stands for QEMU's <c>--object secret</c> and <c>encrypt.key-secret</c>.
/// </summary>
internal sealed class EncryptionRequest
{
    /// <summary>What the names of all these options begin with.</summary>
    public const string Prefix = "encrypt.";

    private const string EssivHash = "sha256";
    private const int IterationMillisecondsMax = 60_000;
    private const string KeyHint = "the passphrase comes from --secret file:PATH";

    private readonly List<(string Name, string Value)> _given = [];
    private string? _format;
    private int _keyBits = 256;
    private string _cipherMode = "xts";
    private string _ivGenerator = "plain64";
    private string? _ivHash;
    private string _hash = "sha256";
    private int _iterationMilliseconds = 2000;

    /// <summary>Takes one option.</summary>
    /// <exception cref="CommandException">It is not known, or its value makes no sense.</exception>
    public void Set(string name, string value)
    {
        switch (name)
        {
            case "encrypt.format":
                _format = OneOf(name, value, "luks", "aes");
                break;
            case "encrypt.cipher-alg":
                _keyBits = OneOf(name, value, "aes-256", "aes-128") is "aes-256" ? 256 : 128;
                break;
            case "encrypt.cipher-mode":
                _cipherMode = OneOf(name, value, "xts", "cbc");
                break;
            case "encrypt.ivgen-alg":
                _ivGenerator = OneOf(name, value, "plain64", "plain", "essiv");
                break;
            case "encrypt.ivgen-hash-alg":
                // Of the hashes below only this one has the size of a key of AES.
                _ivHash = OneOf(name, value, EssivHash);
                break;
            case "encrypt.hash-alg":
                _hash = OneOf(name, value, "sha256", "sha1", "sha224", "sha384", "sha512", "ripemd160");
                break;
            case "encrypt.iter-time":
                bool isNumber = int.TryParse(
                    value, NumberStyles.None, CultureInfo.InvariantCulture, out _iterationMilliseconds);
                if (!isNumber || _iterationMilliseconds is < 1 or > IterationMillisecondsMax)
                    throw Invalid(name, value, $"must be a number of milliseconds of 1 to {IterationMillisecondsMax}");
                break;
            case "encrypt.key-secret":
                throw CommandException.Usage($"option {name} is not known here", KeyHint);
            default:
                throw CommandException.Usage(
                    $"unknown option {name}", $"{Report.ProgramName} create --help lists the options");
        }

        _given.Add((name, value));
    }

    /// <summary>Checks the options together with whether there is a passphrase.</summary>
    /// <exception cref="CommandException">They contradict each other.</exception>
    public void Check(bool hasSecret)
    {
        if (_format is null && (_given.Count > 0 || hasSecret))
            throw CommandException.Usage("the format of the encryption is missing", "add -o encrypt.format=luks");
        if (_format is not null && !hasSecret)
            throw CommandException.Usage("an encrypted image needs a passphrase", KeyHint);
        if (_format is "aes" && _given.Count > 1)
            throw CommandException.Usage("encrypt.format=aes has no other options");
        if (_ivHash is not null && _ivGenerator is not "essiv")
            throw CommandException.Usage("encrypt.ivgen-hash-alg is for encrypt.ivgen-alg=essiv");
    }

    /// <summary>The options as <c>qemu-img create</c> repeats them, with a space in front of each.</summary>
    public string Describe()
    {
        StringBuilder line = new();
        foreach ((string name, string value) in _given)
            line.Append(CultureInfo.InvariantCulture, $" {name}={value}");
        return line.ToString();
    }

    /// <summary>What the engine makes of it, or null for an image that is not encrypted.</summary>
    public EncryptionOptions? ToOptions(ImageSecrets? secrets) => _format is null || secrets is null
        ? null
        : new EncryptionOptions
        {
            Format = _format is "aes" ? EncryptionFormat.Aes : EncryptionFormat.Luks,
            Secrets = secrets,
            CipherMode = $"{_cipherMode}-{_ivGenerator}" + (_ivGenerator is "essiv" ? $":{EssivHash}" : ""),
            KeyBytes = (_cipherMode is "xts" ? 2 : 1) * _keyBits / 8,
            HashName = _hash,
            IterationTime = TimeSpan.FromMilliseconds(_iterationMilliseconds),
        };

    private static string OneOf(string name, string value, params string[] known) =>
        known.Contains(value, StringComparer.Ordinal)
            ? value
            : throw Invalid(name, value, $"must be {string.Join(", ", known)}");

    private static CommandException Invalid(string name, string value, string what) =>
        CommandException.Usage($"{name}={value}: {what}");
}
