// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Output;

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
        Option<string> output = CommonOptions.Output();
        Option<string?> format = CommonOptions.Format();
        Option<string?> repair = new("-r", "--repair")
        { Description = "leaks: give lost space back", HelpName = "WHAT" };
        Option<bool> quiet = new("-q", "--quiet") { Description = "Print only errors" };
        Option<bool> forceShare = CommonOptions.ForceShare();
        Argument<string> file = new("FILE") { Description = "The image" };
        Command command = new("check", "Look for damage in an image, and repair leaks")
            { output, format, repair, quiet, forceShare, file };
        command.SetAction(parsed =>
        {
            CheckRequest request = new(
                parsed.GetRequiredValue(file),
                parsed.GetValue(format),
                IsRepair(parsed.GetValue(repair), parsed.GetValue(forceShare)),
                parsed.GetValue(forceShare));
            Form form = new(CommonOptions.IsJson(parsed, output), parsed.GetValue(quiet));

            // An image in use is not repaired.
            if (request.Repair)
                Typed.Verb = TypedVerb.Other;
            return request.Repair
                ? Run(request, form)
                : RunningImage.OrElse(
                    request.Path, () => Run(request, form), running => CheckMounted(running, request, form));
        });
        return command;
    }

    /// <summary>What the kernel holds is flushed, as it would be by an unmount before the check.</summary>
    private static int CheckMounted(RunningImage running, CheckRequest request, Form form)
    {
        running.FlushKernel();
        return running.Do(
            "check",
            new CheckCall(running.Path, request.Path, form.AsJson, form.Quiet),
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

    private static int Run(CheckRequest request, Form form)
    {
        RepairResult result = CheckVerb.Run(request);
        int exitCode;
        using (TextWriter output = StandardOutput.OpenBuffered())
        {
            exitCode = CheckOutcome.Write(
                result, request.Path, form.AsJson, form.Quiet, output, StandardError.WriteLine);
        }

        if (result.Refused is { } reason)
            Report.Warning($"{Printable.Text(request.Path)}: {reason}");
        return exitCode;
    }

    /// <summary>How the result is printed.</summary>
    private sealed record Form(bool AsJson, bool Quiet);
}
