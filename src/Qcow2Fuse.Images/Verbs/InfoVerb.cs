// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Images.Reports;

namespace Qcow2Fuse.Images.Verbs;

/// <summary>What <c>info</c> is asked for.</summary>
/// <param name="Path">The image.</param>
/// <param name="Format">The name of its format; null to recognise it.</param>
/// <param name="ForceShare">Look whoever else may be writing to it.</param>
public sealed record InfoRequest(string Path, string? Format = null, bool ForceShare = false);

/// <summary><c>info</c>: what an image file says of itself. Opens no other file, whatever names it holds.</summary>
public static class InfoVerb
{
    /// <summary>Reads the report of an image file and hands it on while the file is open.</summary>
    /// <exception cref="BlockException">The file cannot be read, or its header is invalid.</exception>
    public static void Run(InfoRequest request, Action<ImageReport> use)
    {
        using BlockDevice file = ImageFile.Open(request.Path, ImageFile.ToLook(request.ForceShare));
        use(Of(file, request.Path, request.Format));
    }

    /// <summary>What an open image file says of itself; lists in it are read from the file when they are gone through.
    /// </summary>
    /// <param name="file">The file.</param>
    /// <param name="name">Its name in the report, not escaped.</param>
    /// <param name="format">The name of its format; null to recognise it.</param>
    /// <exception cref="BlockException">Its header is invalid.</exception>
    public static ImageReport Of(BlockDevice file, string name, string? format) =>
        ImageFormats.Of(file, format).Describe(file, name);

    /// <summary>Prints a report. Its file is open still.</summary>
    public static void Write(ImageReport report, bool asJson, TextWriter text)
    {
        if (!asJson)
        {
            ImageReportText.Write(report, text);
            return;
        }

        ImageReportJson.Write(report, text);
        text.WriteLine();
    }
}
