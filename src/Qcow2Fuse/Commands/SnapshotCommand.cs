// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse snapshot</c>: lists, creates, applies and deletes internal snapshots with the syntax of
/// <c>qemu-img snapshot</c>. None of that needs a backing file, so none is opened.
/// </summary>
internal static class SnapshotCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<bool> list = new("-l", "--list") { Description = "List the snapshots" };
        Option<string?> create = new("-c", "--create") { Description = "Take a snapshot", HelpName = "NAME" };
        Option<string?> apply = new("-a", "--apply")
        { Description = "Make the disk what it was in a snapshot, named or by its id", HelpName = "NAME" };
        Option<string?> delete = new("-d", "--delete")
        { Description = "Delete a snapshot, named or by its id", HelpName = "NAME" };
        Option<string> output = CommonOptions.Output(", for -l");
        Option<bool> forceShare = CommonOptions.ForceShare("With -l: look");
        Option<bool> quiet = new("-q", "--quiet") { Description = "Print nothing but the list" };
        Argument<string> file = new("FILE") { Description = "The image" };
        Command command = new("snapshot", "List, take, apply or delete internal snapshots")
            { list, create, apply, delete, output, forceShare, quiet, file };
        SecretOption secret = new(command);
        command.SetAction(parsed =>
        {
            string path = parsed.GetRequiredValue(file);
            SnapshotChange change = new(
                parsed.GetValue(create), parsed.GetValue(apply), parsed.GetValue(delete));
            int changes = CountOf(change);
            if (changes + (parsed.GetValue(list) ? 1 : 0) > 1)
                throw CommandException.Usage("-l, -c, -a and -d exclude each other");
            bool asJson = CommonOptions.IsJson(parsed, output);
            bool shares = parsed.GetValue(forceShare);
            if (changes == 0)
                Typed.Verb = TypedVerb.Look;
            IReadOnlyList<SecretSource> secrets = secret.SourcesOf(parsed);
            if (changes > 0 && shares)
                throw CommandException.Usage($"{path}: -U is for looking only");
            return RunningImage.OrElse(
                path,
                () => changes == 0 ? List(path, shares, asJson) : Change(path, change, secrets),
                running => RunMounted(running, new SnapshotCall(
                    running.Path, path, change.Create, change.Apply, change.Delete, asJson)));
        });
        return command;
    }

    private static int RunMounted(RunningImage running, SnapshotCall call)
    {
        if (call.Create is not null)
            running.FlushKernel();
        return running.Do("snapshot", call, ControlJson.Default.SnapshotCall);
    }

    private static int CountOf(SnapshotChange change) =>
        ((string?[])[change.Create, change.Apply, change.Delete]).Count(static name => name is not null);

    private static int List(string path, bool forceShare, bool asJson)
    {
        using TextWriter output = StandardOutput.OpenBuffered();
        SnapshotVerb.List(path, forceShare, snapshots => SnapshotVerb.Write(snapshots, asJson, output));
        return ExitCode.Success;
    }

    private static int Change(string path, SnapshotChange change, IReadOnlyList<SecretSource> sources)
    {
        using ImageSecrets? secrets = SecretOption.Read(sources);
        SnapshotVerb.Run(path, change, secrets);
        return ExitCode.Success;
    }
}
