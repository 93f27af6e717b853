// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse create</c>: makes an image with the syntax and the output of <c>qemu-img create</c>.</summary>
internal static class CreateCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<string> format = new("-f", "--format")
        {
            Description = "Format of the new image: qcow2 or raw",
            HelpName = "FORMAT",
            DefaultValueFactory = static _ => "qcow2",
        };
        Option<string[]> words = new("-o", "--options")
        {
            Description = "cluster_size=SIZE, compat=0.10|1.1, compression_type=zlib|zstd, extended_l2=on|off,"
                + " refcount_bits=N, backing_file=FILE, backing_fmt=FORMAT, encrypt.format=luks|aes,"
                + " encrypt.cipher-alg=aes-256|aes-128, encrypt.cipher-mode=xts|cbc,"
                + " encrypt.ivgen-alg=plain64|plain|essiv, encrypt.ivgen-hash-alg=sha256,"
                + " encrypt.hash-alg=NAME, encrypt.iter-time=MILLISECONDS",
            HelpName = "NAME=VALUE,...",
        };
        Option<string> backing = new("-b", "--backing")
        { Description = "Backing file, as seen from the directory of FILE", HelpName = "FILE" };
        Option<string> backingFormat = new("-F", "--backing-format")
        { Description = "Format of the backing file", HelpName = "FORMAT" };
        Option<string?> secret = new("--secret")
        { Description = "Where the passphrase of an encrypted image is read from", HelpName = SecretSource.Form };
        Option<bool> quiet = new("-q", "--quiet") { Description = "Print nothing" };
        Option<bool> isUnchecked = new("-u") { Description = "Do not look at the backing file" };
        Argument<string> file = new("FILE") { Description = "The image to make; an existing file is replaced" };
        Argument<string?> size = new("SIZE")
        {
            Description = "Size of the disk in bytes, or with a suffix k M G T P E; default: the backing file's",
            Arity = ArgumentArity.ZeroOrOne,
        };
        Command command = new("create", "Make an image")
            { format, words, backing, backingFormat, secret, quiet, isUnchecked, file, size };
        command.SetAction(parsed => Run(
            CreateWords.From(
                parsed.GetRequiredValue(file),
                parsed.GetValue(size),
                parsed.GetRequiredValue(format),
                parsed.GetValue(words) ?? [],
                parsed.GetValue(backing),
                parsed.GetValue(backingFormat),
                parsed.GetValue(secret)),
            parsed.GetValue(isUnchecked),
            parsed.GetValue(quiet)));
        return command;
    }

    private static int Run(CreateWords words, bool isUnchecked, bool quiet)
    {
        ImageSecrets? secrets = null;
        long size;
        try
        {
            size = CreateVerb.Run(new CreateRequest(words.File, words.Size)
            {
                BackingFile = words.BackingFile,
                BackingFormat = words.BackingFormat,
                IsUnchecked = isUnchecked,
                Options = words.IsRaw
                    ? null
                    : bytes => words.ToOptions(
                        bytes, secrets = words.Secret is null ? null : SecretReader.Read([words.Secret])),
            });
        }
        finally
        {
            secrets?.Dispose();
        }

        if (!quiet)
            Say(words.Describe(size));
        return ExitCode.Success;
    }

    /// <summary>The image is there by now, whether or not anybody can be told.</summary>
    private static void Say(string line)
    {
        try
        {
            StandardOutput.WriteLine(line);
        }
        catch (Exception e) when (e is IOException or CommandException)
        {
            Report.Warning(e is CommandException ? e.Message : $"standard output: {e.Message}");
        }
    }
}
