// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse resize</c>: changes the size of a disk with the syntax of <c>qemu-img resize</c>.</summary>
internal static class ResizeCommand
{
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
                    path,
                    parsed.GetValue(format),
                    new ResizeRequest(wanted, Enum.Parse<Preallocation>(mode, ignoreCase: true), mayShrink),
                    isQuiet,
                    secrets),
                running => running.Do(
                    "resize",
                    new ResizeCall(running.Path, wanted, path, mode, mayShrink, isQuiet),
                    ControlJson.Default.ResizeCall));
        });
        return command;
    }

    private static int Run(
        string path, string? format, ResizeRequest request, bool quiet, IReadOnlyList<SecretSource> sources)
    {
        using ImageSecrets? secrets = SecretOption.Read(sources);
        ResizeVerb.Run(path, format, request, secrets);
        if (!quiet)
            StandardOutput.WriteLine(ResizeVerb.Done);
        return ExitCode.Success;
    }
}
