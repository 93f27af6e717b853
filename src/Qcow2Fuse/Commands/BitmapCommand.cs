// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.CommandLine.Parsing;
using Qcow2Fuse.Block;
using Qcow2Fuse.Control;
using Qcow2Fuse.Hosting;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse bitmap</c>: changes a persistent bitmap with the syntax of <c>qemu-img bitmap</c>. Several actions are
/// done in their order, and what was done before one fails stays done.
/// </summary>
internal static class BitmapCommand
{
    /// <summary>Why other formats are refused.</summary>
    internal const string OnlyQcow2 = "only qcow2 images hold bitmaps";

    private const string Merge = "--merge";

    /// <summary>The actions without a value, each for a bitmap of an open image.</summary>
    private static readonly Dictionary<string, Action<Request>> Actions = new(StringComparer.Ordinal)
    {
        ["--add"] = static request => request.Image.AddBitmap(request.Name, request.Granularity, enabled: true),
        ["--remove"] = static request => request.Image.RemoveBitmap(request.Name),
        ["--clear"] = static request => request.Image.ClearBitmap(request.Name),
        ["--enable"] = static request => request.Image.EnableBitmap(request.Name),
        ["--disable"] = static request => request.Image.DisableBitmap(request.Name),
    };

    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<string[]> merge = new(Merge)
        { Description = "Set in NAME what is set in the bitmap SOURCE", HelpName = "SOURCE" };
        Option<string[]> granularity = new("-g", "--granularity")
        { Description = "Bytes per bit of a bitmap that is added (default: 64k, or smaller clusters)", HelpName = "N" };
        Option<string[]> sourceFile = new("-b", "--source-file")
        { Description = "Image that holds the bitmaps to merge", HelpName = "FILE" };
        Option<string[]> sourceFormat = new("-F", "--source-format")
        { Description = "Its format", HelpName = "FORMAT" };
        Option<string[]> format = new("-f", "--format")
        { Description = "Format of the image (default: recognised)", HelpName = "FORMAT" };
        Argument<string> file = new("FILE") { Description = "The image" };
        Argument<string> name = new("NAME") { Description = "The bitmap" };
        Command command = new("bitmap", "Change a persistent bitmap of an image")
        {
            Flag("--add", "Make the bitmap; it records what is written from now on"),
            Flag("--remove", "Remove it"),
            Flag("--clear", "Make it empty"),
            Flag("--enable", "Let it record what is written from now on"),
            Flag("--disable", "Stop it from recording"),
            merge, granularity, sourceFile, sourceFormat, format, file, name,
        };
        SecretOption secret = new(command);
        command.SetAction(parsed => Run(
            [.. StepsOf(parsed.Tokens)],
            new Files(
                parsed.GetRequiredValue(file),
                parsed.GetValue(format)?.LastOrDefault(),
                parsed.GetValue(sourceFile)?.LastOrDefault(),
                parsed.GetValue(sourceFormat)?.LastOrDefault()),
            secret.SourcesOf(parsed),
            parsed.GetRequiredValue(name),
            parsed.GetValue(granularity)?.LastOrDefault()));
        return command;
    }

    private static Option<bool> Flag(string name, string description) =>
        new(name) { Description = description, Arity = ArgumentArity.Zero };

    /// <summary>The actions in the order of the command line, which the values of the options do not tell.</summary>
    private static IEnumerable<BitmapStep> StepsOf(IReadOnlyList<Token> tokens)
    {
        for (int i = 0; i < tokens.Count; i++)
        {
            if (tokens[i].Type != TokenType.Option)
                continue;
            if (tokens[i].Value is Merge)
                yield return new BitmapStep(Merge, tokens[++i].Value);
            else if (Actions.ContainsKey(tokens[i].Value))
                yield return new BitmapStep(tokens[i].Value);
        }
    }

    private static int Run(
        List<BitmapStep> steps, Files files, IReadOnlyList<SecretSource> secrets, string name, string? granularityText)
    {
        bool adds = steps.Exists(static step => step.Action is "--add");
        bool merges = steps.Exists(static step => step.Action is Merge);
        if (steps.Count == 0)
            throw CommandException.Usage(
                "what to do is missing: --add, --remove, --clear, --enable, --disable or --merge");
        if (granularityText is not null && !adds)
            throw CommandException.Usage("-g goes with --add only");
        if (files.Source is not null && !merges)
            throw CommandException.Usage("-b goes with --merge only");
        if (files.SourceFormat is not null && files.Source is null)
            throw CommandException.Usage("-F goes with -b only");
        long granularity = 0;
        if (granularityText is not null && !SizeText.TryParse(granularityText, out granularity))
            throw CommandException.Usage($"-g {granularityText}: must be a size, such as 64k");

        return RunningImage.OrElse(
            files.Image,
            () => RunOffline(steps, files, secrets, name, granularity),
            running => running.Do(
                "bitmap",
                new BitmapCall(
                    running.Path, name, steps, files.Image, granularity,
                    files.Source is null ? null : LinuxPath.Full(files.Source), files.SourceFormat),
                ControlJson.Default.BitmapCall));
    }

    private static int RunOffline(
        List<BitmapStep> steps, Files files, IReadOnlyList<SecretSource> sources, string name, long granularity)
    {
        using ImageSecrets? secrets = SecretOption.Read(sources);
        using OpenedImage opened = Open(files.Image, files.Format, readOnly: false, secrets);
        using OpenedImage? source = files.Source is null
            ? null : Open(files.Source, files.SourceFormat, readOnly: true, secrets);
        Apply(Qcow2Of(opened), source, name, granularity, steps);
        return ExitCode.Success;
    }

    /// <summary>Takes the steps one after the other.</summary>
    /// <param name="image">The image.</param>
    /// <param name="source">The image that has the bitmaps to merge; null for the same.</param>
    /// <param name="name">The bitmap.</param>
    /// <param name="granularity">Bytes per bit of a bitmap that is added; 0 for the default.</param>
    /// <param name="steps">What to do.</param>
    internal static void Apply(
        Qcow2Device image, OpenedImage? source, string name, long granularity, IReadOnlyList<BitmapStep> steps)
    {
        Request request = new(image, name, granularity);
        foreach ((string action, string? merged) in steps)
        {
            if (action is not Merge)
            {
                if (!Actions.TryGetValue(action, out Action<Request>? change))
                    throw CommandException.Usage($"unknown action {Printable.Text(action)}");
                change(request);
            }
            else if (merged is null)
            {
                throw CommandException.Usage("--merge needs the name of a bitmap");
            }
            else if (source is null)
            {
                image.MergeBitmap(merged, name);
            }
            else
            {
                image.MergeBitmap(Qcow2Of(source), merged, name);
            }
        }
    }

    /// <summary>Opens the image alone: bitmaps need no backing file.</summary>
    internal static OpenedImage Open(string path, string? format, bool readOnly, ImageSecrets? secrets = null)
    {
        OpenedImage image = new ImageOpener(new FileStorage(), ServedImage.Formats).Open(new ImageOpenOptions
        {
            Path = path,
            Format = format,
            ReadOnly = readOnly,
            NoBacking = true,
            Secrets = secrets,
        });
        if (readOnly || !image.ReadOnly)
            return image;
        ImageMessage reason = image.Messages[0];
        image.Dispose();
        throw new CommandException(ExitCode.Failure, reason.Text);
    }

    private static Qcow2Device Qcow2Of(OpenedImage image) => image.Device as Qcow2Device
        ?? throw new CommandException(ExitCode.Failure, $"{image.Device.Name}: {OnlyQcow2}");

    private sealed record Files(string Image, string? Format, string? Source, string? SourceFormat);

    private sealed record Request(Qcow2Device Image, string Name, long Granularity);
}
