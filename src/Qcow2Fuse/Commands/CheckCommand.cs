// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block;
using Qcow2Fuse.Control;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols;
using Qcow2Fuse.Qcow2;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse check</c>: looks for contradictions in the metadata of an image, and repairs leaks, with the syntax,
/// the output and the exit codes of <c>qemu-img check</c>. Reads the image file and no other.
/// </summary>
internal static class CheckCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<string> output = new("--output")
        {
            Description = "human or json",
            HelpName = "FORM",
            DefaultValueFactory = static _ => "human",
        };
        Choice.Among(output, "human", "json");
        Option<string?> format = new("-f", "--format")
        { Description = "Format of the image: qcow2 or raw (default: recognised)", HelpName = "FORMAT" };
        Option<string?> repair = new("-r", "--repair")
        { Description = "leaks: give lost space back", HelpName = "WHAT" };
        Option<bool> quiet = new("-q", "--quiet") { Description = "Print only errors" };
        Option<bool> forceShare = new("-U", "--force-share")
        { Description = "Look although another process may be writing to the image" };
        Argument<string> file = new("FILE") { Description = "The image" };
        Command command = new("check", "Look for damage in an image, and repair leaks")
            { output, format, repair, quiet, forceShare, file };
        command.SetAction(parsed =>
        {
            Request request = new(
                parsed.GetRequiredValue(file),
                parsed.GetValue(format),
                IsRepair(parsed.GetValue(repair), parsed.GetValue(forceShare)),
                parsed.GetValue(forceShare),
                parsed.GetValue(output) is "json",
                parsed.GetValue(quiet));

            // An image in use is not repaired.
            if (request.Repair)
                Typed.Verb = TypedVerb.Other;
            return request.Repair
                ? Run(request)
                : RunningImage.OrElse(request.Path, () => Run(request), running => CheckMounted(running, request));
        });
        return command;
    }

    /// <summary>Prints a result, and tells what to exit with.</summary>
    internal static int Write(
        RepairResult result, string name, bool asJson, bool quiet, TextWriter text, Action<string> writeMessage)
    {
        if (!quiet)
        {
            CheckReport.WriteFindings(result, writeMessage);
            text.Write(asJson ? CheckReport.Json(name, result) : CheckReport.Text(result));
        }

        return ExitCodeOf(result.After);
    }

    /// <summary>The refusal for formats other than qcow2.</summary>
    internal static CommandException NothingToCheck(string name) =>
        new(ExitCode.NoCheck, $"{name}: raw images have nothing that could be checked");

    /// <summary>What the kernel holds is flushed, as it would be by an unmount before the check.</summary>
    private static int CheckMounted(RunningImage running, Request request)
    {
        running.FlushKernel();
        return running.Do(
            "check",
            new CheckCall(running.Path, request.Path, request.AsJson, request.Quiet),
            ControlJson.Default.CheckCall);
    }

    private static bool IsRepair(string? what, bool forceShare) => what switch
    {
        null => false,
        "leaks" when forceShare => throw CommandException.Usage("-U is for looking only, and -r repairs"),
        "leaks" => true,
        "all" => throw CommandException.Usage(
            "-r all is not there yet", "-r leaks gives lost space back; qemu-img check -r all repairs more"),
        _ => throw CommandException.Usage($"unknown repair {what}", "-r leaks gives lost space back"),
    };

    private static int Run(Request request)
    {
        using FileDevice file = FileDevice.Open(request.Path, readOnly: !request.Repair);
        if (!request.ForceShare)
            file.Lock(request.Repair ? ImageLockMode.Writer : ImageLockMode.Reader);
        if (!IsQcow2(file, request.Format))
            throw NothingToCheck(file.Name);

        RepairResult result;
        if (request.Repair)
        {
            result = ImageRepair.Leaks(file);
        }
        else
        {
            CheckResult check = ImageChecker.Check(file);
            result = new RepairResult(check, check, LeaksFixed: 0, CorruptionsFixed: 0, Refused: null);
        }

        int exitCode;
        using (TextWriter output = StandardOutput.OpenBuffered())
        {
            exitCode = Write(
                result, request.Path, request.AsJson, request.Quiet, output, StandardError.WriteLine);
        }

        if (result.Refused is { } reason)
            Report.Warning($"{file.Name}: {reason}");
        return exitCode;
    }

    private static int ExitCodeOf(CheckResult check) =>
        check.CheckErrors > 0 ? ExitCode.Failure
        : check.Corruptions > 0 ? ExitCode.Corrupt
        : check.Leaks > 0 ? ExitCode.Leaks
        : ExitCode.Success;

    private static bool IsQcow2(FileDevice file, string? format)
    {
        switch (format)
        {
            case "qcow2":
                return true;
            case "raw":
                return false;
            case null:
                return ImageHead.IsQcow2(file);
            default:
                throw CommandException.Usage($"unknown format {format}", "the formats are qcow2 and raw");
        }
    }

    private sealed record Request(
        string Path, string? Format, bool Repair, bool ForceShare, bool AsJson, bool Quiet);
}
