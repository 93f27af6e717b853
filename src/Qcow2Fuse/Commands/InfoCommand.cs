// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Block;
using Qcow2Fuse.Control;
using Qcow2Fuse.Formats;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols;
using Qcow2Fuse.Qcow2;

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
        Option<string> output = new("--output")
        {
            Description = "human or json",
            HelpName = "FORM",
            DefaultValueFactory = static _ => "human",
        };
        Choice.Among(output, "human", "json");
        Option<bool> forceShare = new("-U", "--force-share")
        { Description = "Look although another process may be writing to the image" };
        Option<string?> format = new("-f", "--format")
        { Description = "Format of the image: qcow2 or raw (default: recognised)", HelpName = "FORMAT" };
        Argument<string> file = new("FILE") { Description = "The image" };
        Command command = new("info", "Show what an image is") { output, forceShare, format, file };
        command.SetAction(parsed =>
        {
            string path = parsed.GetRequiredValue(file);
            string? name = parsed.GetValue(format);
            bool asJson = parsed.GetValue(output) is "json";
            return RunningImage.OrElse(
                path,
                () => Run(path, name, parsed.GetValue(forceShare), asJson),
                running => running.Do(
                    "info", new InfoCall(running.Path, path, name, asJson), ControlJson.Default.InfoCall));
        });
        return command;
    }

    /// <summary>Prints a report. Its file is open still.</summary>
    internal static void Write(ImageReport report, bool asJson, TextWriter text)
    {
        if (!asJson)
        {
            ImageReportText.Write(report, text);
            return;
        }

        ImageReportJson.Write(report, text);
        text.WriteLine();
    }

    private static int Run(string path, string? format, bool forceShare, bool asJson)
    {
        using FileDevice file = FileDevice.Open(path, readOnly: true);
        if (!forceShare)
            file.Lock(ImageLockMode.Reader);
        using TextWriter output = StandardOutput.OpenBuffered();
        Write(Read(file, path, format), asJson, output);
        return ExitCode.Success;
    }

    /// <summary>What an image file says about itself; lists in it are read from the file when they are printed.
    /// </summary>
    /// <exception cref="BlockException">Its header is invalid.</exception>
    internal static ImageReport Read(BlockDevice file, string path, string? format)
    {
        if (!IsQcow2(file, format))
            return new ImageReport(path, "raw", RawFormat.SizeOf(file.Length), file.AllocatedBytes, Qcow2: null);
        Qcow2ImageInfo image = Qcow2ImageInfo.Read(file);
        return new ImageReport(path, "qcow2", image.VirtualSize, file.AllocatedBytes, image);
    }

    /// <summary>Whether a file is, or is taken for, a qcow2 image.</summary>
    internal static bool IsQcow2(BlockDevice file, string? format) => format switch
    {
        "qcow2" => true,
        "raw" => false,
        null => ImageHead.IsQcow2(file),
        _ => throw CommandException.Usage($"unknown format {format}", "the formats are qcow2 and raw"),
    };
}
