// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse info</c>: what the header of an image says, in the forms of <c>qemu-img info</c>. Reads the image
/// file and no other, whatever names it holds.
/// </summary>
internal static class InfoCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<string> output = CommonOptions.Output();
        Option<bool> forceShare = CommonOptions.ForceShare();
        Option<string?> format = CommonOptions.Format();
        Argument<string> file = new("FILE") { Description = "The image" };
        Command command = new("info", "Show what an image is") { output, forceShare, format, file };
        command.SetAction(parsed =>
        {
            string path = parsed.GetRequiredValue(file);
            string? name = parsed.GetValue(format);
            bool asJson = CommonOptions.IsJson(parsed, output);
            return RunningImage.OrElse(
                path,
                () => Run(new InfoRequest(path, name, parsed.GetValue(forceShare)), asJson),
                running => running.Do(
                    "info", new InfoCall(running.Path, path, name, asJson), ControlJson.Default.InfoCall));
        });
        return command;
    }

    private static int Run(InfoRequest request, bool asJson)
    {
        using TextWriter output = StandardOutput.OpenBuffered();
        InfoVerb.Run(request, report => InfoVerb.Write(report, asJson, output));
        return ExitCode.Success;
    }
}
