// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block;
using Qcow2Fuse.Control;
using Qcow2Fuse.Hosting;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse resize</c>: changes the size of a disk with the syntax of <c>qemu-img resize</c>.</summary>
internal static class ResizeCommand
{
    /// <summary>What is printed when it is done.</summary>
    internal const string Done = "Image resized.";

    private const int SectorSize = 512;

    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<string?> format = new("-f", "--format")
        { Description = "Format of the image: qcow2 (recognised) or raw", HelpName = "FORMAT" };
        Option<string> preallocation = new("--preallocation")
        {
            Description = "What is done for the storage of new space: off, metadata, falloc, full",
            HelpName = "MODE",
            DefaultValueFactory = static _ => "off",
        };
        Choice.Among(preallocation, "off", "metadata", "falloc", "full");
        Option<bool> shrink = new("--shrink") { Description = "Allow a smaller size: what lies beyond it is lost" };
        Option<bool> quiet = new("-q", "--quiet") { Description = "Print nothing" };
        Argument<string> file = new("FILE") { Description = "The image" };
        Argument<string> size = new("SIZE")
        { Description = "The new size in bytes or with a suffix k M G T P E; +SIZE and -SIZE change it by so much" };
        Command command = new("resize", "Change the size of a disk")
            { format, preallocation, shrink, quiet, file, size };
        SecretOption secret = new(command);
        command.SetAction(parsed =>
        {
            IReadOnlyList<SecretSource> secrets = secret.SourcesOf(parsed);
            string path = parsed.GetRequiredValue(file);
            string mode = parsed.GetRequiredValue(preallocation);
            string wanted = parsed.GetRequiredValue(size);
            bool mayShrink = parsed.GetValue(shrink);
            bool isQuiet = parsed.GetValue(quiet);
            if (mayShrink && mode is not "off")
                throw CommandException.Usage("--shrink and --preallocation exclude each other");
            return RunningImage.OrElse(
                path,
                () => Run(
                    path, wanted, parsed.GetValue(format), Enum.Parse<Preallocation>(mode, ignoreCase: true),
                    mayShrink, isQuiet, secrets),
                running => running.Do(
                    "resize",
                    new ResizeCall(running.Path, wanted, path, mode, mayShrink, isQuiet),
                    ControlJson.Default.ResizeCall));
        });
        return command;
    }

    /// <summary>Changes the size of an open disk. Durable when it returns.</summary>
    /// <param name="device">The disk.</param>
    /// <param name="path">Its name in messages.</param>
    /// <param name="size">The new size as typed.</param>
    /// <param name="preallocation">What is done for the storage of new space.</param>
    /// <param name="mayShrink">Whether it may become smaller.</param>
    /// <exception cref="CommandException">The size makes no sense, or is smaller.</exception>
    internal static void Resize(
        BlockDevice device, string path, string size, Preallocation preallocation, bool mayShrink)
    {
        long wanted = NewSize(path, size, device.Length);
        if (wanted < device.Length && !mayShrink)
        {
            throw new CommandException(
                ExitCode.Failure,
                $"{path}: {wanted} bytes are less than its {device.Length}",
                "--shrink allows it; what lies beyond the new end is lost",
                inner: null);
        }

        Resize(device, path, wanted, preallocation);
        device.Flush();
    }

    private static int Run(
        string path, string size, string? format, Preallocation preallocation, bool mayShrink, bool quiet,
        IReadOnlyList<SecretSource> sources)
    {
        using ImageSecrets? secrets = SecretOption.Read(sources);
        ImageOpenOptions options = new() { Path = path, Format = format, Secrets = secrets };
        using OpenedImage image = new ImageOpener(new FileStorage(), ServedImage.Formats).Open(options);
        if (image.Device.IsReadOnly)
        {
            ImageMessage? why = image.Messages.Count > 0 ? image.Messages[^1] : null;
            throw new CommandException(
                ExitCode.Failure, why?.Text ?? $"{path}: cannot be written", Advice.For(why?.Cause, Typed.Verb));
        }

        Resize(image.Device, path, size, preallocation, mayShrink);
        if (!quiet)
            StandardOutput.WriteLine(Done);
        return ExitCode.Success;
    }

    private static void Resize(BlockDevice device, string path, long size, Preallocation preallocation)
    {
        if (device is Qcow2Device qcow2)
        {
            qcow2.Resize(size, preallocation);
            return;
        }

        if (preallocation == Preallocation.Metadata)
            throw CommandException.Usage($"{path}: a raw image has no metadata to preallocate");
        long old = device.Length;
        device.Resize(size);
        if (preallocation != Preallocation.Off && size > old)
            device.WriteZeroes(old, size - old, mayUnmap: false);
    }

    /// <summary>Whole sectors are what every reader of qcow2 can represent.</summary>
    private static long NewSize(string path, string text, long old)
    {
        char sign = text.Length > 0 ? text[0] : '\0';
        bool isRelative = sign is '+' or '-';
        if (!SizeText.TryParse(isRelative ? text[1..] : text, out long value))
        {
            throw CommandException.Usage(
                $"{path}: invalid size '{Printable.Text(text)}'", "sizes are written like 512M, 10G, +1G or -1G");
        }

        if (sign == '-' && value > old)
            throw CommandException.Usage($"{path}: has only {old} bytes");
        if (value > long.MaxValue - SectorSize - (isRelative ? old : 0))
            throw CommandException.Usage($"{path}: the size is too large");
        long wanted = sign switch { '+' => old + value, '-' => old - value, _ => value };
        if (wanted == 0)
            throw CommandException.Usage($"{path}: a disk of 0 bytes is no disk");
        return wanted % SectorSize == 0
            ? wanted : throw CommandException.Usage($"{path}: {wanted} bytes are no multiple of {SectorSize}");
    }
}
