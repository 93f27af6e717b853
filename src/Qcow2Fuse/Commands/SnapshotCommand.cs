// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block;
using Qcow2Fuse.Control;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols;
using Qcow2Fuse.Qcow2;

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
        Option<string> output = new("--output")
        {
            Description = "human or json, for -l",
            HelpName = "FORM",
            DefaultValueFactory = static _ => "human",
        };
        Choice.Among(output, "human", "json");
        Option<bool> forceShare = new("-U", "--force-share")
        { Description = "With -l: look although another process may be writing to the image" };
        Option<bool> quiet = new("-q", "--quiet") { Description = "Print nothing but the list" };
        Argument<string> file = new("FILE") { Description = "The image" };
        Command command = new("snapshot", "List, take, apply or delete internal snapshots")
            { list, create, apply, delete, output, forceShare, quiet, file };
        SecretOption secret = new(command);
        command.SetAction(parsed =>
        {
            string path = parsed.GetRequiredValue(file);
            (Action<Qcow2Device>? change, int count) = ChangeOf(
                parsed.GetValue(create), parsed.GetValue(apply), parsed.GetValue(delete));
            if (count + (parsed.GetValue(list) ? 1 : 0) > 1)
                throw CommandException.Usage("-l, -c, -a and -d exclude each other");
            bool asJson = parsed.GetValue(output) is "json";
            bool shares = parsed.GetValue(forceShare);
            if (change is null)
                Typed.Verb = TypedVerb.Look;
            IReadOnlyList<SecretSource> secrets = secret.SourcesOf(parsed);
            if (change is not null && shares)
                throw CommandException.Usage($"{path}: -U is for looking only");
            return RunningImage.OrElse(
                path,
                () => change is null ? List(path, shares, asJson) : Change(path, change, secrets),
                running => RunMounted(running, new SnapshotCall(
                    running.Path, path, parsed.GetValue(create), parsed.GetValue(apply), parsed.GetValue(delete),
                    asJson)));
        });
        return command;
    }

    /// <summary>Prints a list of snapshots.</summary>
    internal static void Write(IReadOnlyCollection<SnapshotInfo> snapshots, bool asJson, TextWriter text)
    {
        if (asJson)
        {
            ImageReportJson.WriteSnapshots(snapshots, text);
            text.WriteLine();
        }
        else if (snapshots.Count > 0)
        {
            foreach (string line in ImageReportText.SnapshotLines(snapshots))
                text.WriteLine(line);
        }
    }

    private static int RunMounted(RunningImage running, SnapshotCall call)
    {
        if (call.Create is not null)
            running.FlushKernel();
        return running.Do("snapshot", call, ControlJson.Default.SnapshotCall);
    }

    private static (Action<Qcow2Device>? Change, int Count) ChangeOf(string? create, string? apply, string? delete)
    {
        Action<Qcow2Device>? change = null;
        int count = 0;
        if (create is not null)
        {
            change = device => device.CreateSnapshot(create);
            count++;
        }

        if (apply is not null)
        {
            change = device => device.ApplySnapshot(apply);
            count++;
        }

        if (delete is not null)
        {
            change = device => device.DeleteSnapshot(delete);
            count++;
        }

        return (change, count);
    }

    private static int List(string path, bool forceShare, bool asJson)
    {
        using FileDevice file = FileDevice.Open(path, readOnly: true);
        if (!forceShare)
            file.Lock(ImageLockMode.Reader);
        using TextWriter output = StandardOutput.OpenBuffered();
        Write(Qcow2ImageInfo.Read(file).Snapshots, asJson, output);
        return ExitCode.Success;
    }

    private static int Change(string path, Action<Qcow2Device> change, IReadOnlyList<SecretSource> sources)
    {
        using ImageSecrets? secrets = SecretOption.Read(sources);
        FileDevice file = FileDevice.Open(path, readOnly: false);
        Qcow2Device device;
        try
        {
            file.Lock(ImageLockMode.Writer);
            if (Qcow2ImageInfo.Read(file).HasExternalData)
                throw new CommandException(
                    ExitCode.Failure, $"{file.Name}: an image with an external data file cannot have snapshots");
            device = Qcow2Device.Open(file, new FormatOpenArguments { Secrets = secrets });
        }
        catch
        {
            file.Dispose();
            throw;
        }

        using (device)
            change(device);
        return ExitCode.Success;
    }
}
