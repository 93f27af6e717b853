// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Settings;

/// <summary>Where a passphrase is to be read from; never the passphrase itself.</summary>
internal enum SecretKind
{
    /// <summary>A file.</summary>
    File,

    /// <summary>A descriptor that the caller has opened.</summary>
    Descriptor,

    /// <summary>A credential of systemd (systemd.exec(5), CREDENTIALS).</summary>
    Credential,
}

/// <summary>One <c>secret</c> of a command line or a settings file.</summary>
/// <param name="Kind">What <paramref name="Name"/> is.</param>
/// <param name="Name">Path, number of the descriptor, or name of the credential.</param>
internal sealed record SecretSource(SecretKind Kind, string Name)
{
    /// <summary>How the value is written.</summary>
    public const string Form = "file:PATH|fd:N|credential:NAME";

    /// <summary>The number of the descriptor, −1 for the other kinds.</summary>
    public int Descriptor => Kind == SecretKind.Descriptor
        ? int.Parse(Name, CultureInfo.InvariantCulture)
        : -1;

    /// <summary>
    /// Reads <c>file:PATH</c>, <c>fd:N</c> or <c>credential:NAME</c>. The complaint does not repeat the text: it may
    /// be a passphrase that somebody wrote by mistake.
    /// </summary>
    /// <exception cref="FormatException">It is none of these.</exception>
    public static SecretSource Parse(string text)
    {
        int colon = text.IndexOf(':', StringComparison.Ordinal);
        string name = text[(colon + 1)..];
        return (colon < 0 ? "" : text[..colon]) switch
        {
            "file" when name.Length > 0 => new SecretSource(SecretKind.File, name),
            "fd" when IsReadable(name) => new SecretSource(SecretKind.Descriptor, name),
            "credential" when IsFileName(name) => new SecretSource(SecretKind.Credential, name),
            _ => throw new FormatException("must be file:PATH, fd:N (0, or 3 and more) or credential:NAME"),
        };
    }

    /// <summary>Descriptors 1 and 2 are for output.</summary>
    private static bool IsReadable(string number) =>
        int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int fd) && fd is not (1 or 2);

    private static bool IsFileName(string name) =>
        name.Length > 0 && name is not ("." or "..") && !name.Contains('/', StringComparison.Ordinal);
}
