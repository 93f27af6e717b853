// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary><c>--secret</c> of commands that open an image by themselves.</summary>
internal sealed class SecretOption
{
    private readonly Option<string[]> _option = new("--secret")
    {
        Description = "Where the passphrase of an encrypted image is read from (repeatable)",
        HelpName = SecretSource.Form,
    };

    /// <summary>Adds it to a command.</summary>
    public SecretOption(Command command) => command.Options.Add(_option);

    /// <summary>Where the passphrases are.</summary>
    /// <exception cref="CommandException">A value is of no such form; it is not repeated in the message.</exception>
    public IReadOnlyList<SecretSource> SourcesOf(ParseResult parsed)
    {
        try
        {
            return [.. (parsed.GetValue(_option) ?? []).Select(SecretSource.Parse)];
        }
        catch (FormatException exception)
        {
            throw CommandException.Usage($"option secret: {exception.Message}", inner: exception);
        }
    }

    /// <summary>Reads the passphrases; null for none.</summary>
    /// <exception cref="BlockException">One cannot be read.</exception>
    public static ImageSecrets? Read(IReadOnlyList<SecretSource> sources) => SecretReader.Read(sources);
}
