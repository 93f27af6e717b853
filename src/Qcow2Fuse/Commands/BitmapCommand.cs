// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.CommandLine.Parsing;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse bitmap</c>: changes a persistent bitmap with the syntax of <c>qemu-img bitmap</c>. Several actions are
/// done in their order, and what was done before one fails stays done.
/// </summary>
internal static class BitmapCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<string[]> merge = new(BitmapStepCall.Merge)
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
            Flag(BitmapStepCall.Add, "Make the bitmap; it records what is written from now on"),
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
    private static IEnumerable<BitmapStepCall> StepsOf(IReadOnlyList<Token> tokens)
    {
        for (int i = 0; i < tokens.Count; i++)
        {
            if (tokens[i].Type != TokenType.Option)
                continue;
            if (tokens[i].Value is BitmapStepCall.Merge)
                yield return new BitmapStepCall(BitmapStepCall.Merge, tokens[++i].Value);
            else if (BitmapStepCall.IsAction(tokens[i].Value))
                yield return new BitmapStepCall(tokens[i].Value);
        }
    }

    private static int Run(
        List<BitmapStepCall> steps, Files files, IReadOnlyList<SecretSource> secrets, string name,
        string? granularityText)
    {
        bool adds = steps.Exists(static step => step.Action is BitmapStepCall.Add);
        bool merges = steps.Exists(static step => step.Action is BitmapStepCall.Merge);
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
            () => RunOffline(
                files,
                new BitmapRequest(name, [.. steps.Select(static step => step.ToStep())], granularity),
                secrets),
            running => running.Do(
                "bitmap",
                new BitmapCall(
                    running.Path, name, steps, files.Image, granularity,
                    files.Source is null ? null : LinuxPath.Full(files.Source), files.SourceFormat),
                ControlJson.Default.BitmapCall));
    }

    private static int RunOffline(Files files, BitmapRequest request, IReadOnlyList<SecretSource> sources)
    {
        using ImageSecrets? secrets = SecretOption.Read(sources);
        using OpenedImage opened = BitmapVerb.Open(files.Image, files.Format, readOnly: false, secrets);
        using OpenedImage? source = files.Source is null
            ? null : BitmapVerb.Open(files.Source, files.SourceFormat, readOnly: true, secrets);
        BitmapVerb.Apply(opened.Device, opened.Device.Name, source, request);
        return ExitCode.Success;
    }

    private sealed record Files(string Image, string? Format, string? Source, string? SourceFormat);
}
