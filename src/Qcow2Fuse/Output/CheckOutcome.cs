// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Images.Reports;

namespace Qcow2Fuse.Output;

/// <summary>How a check ends: what is printed of it, and the exit code of <c>qemu-img check</c>.</summary>
internal static class CheckOutcome
{
    /// <summary>Prints a result, and tells what to exit with.</summary>
    /// <param name="result">What was found and repaired.</param>
    /// <param name="name">The image as it was named.</param>
    /// <param name="asJson">For programs.</param>
    /// <param name="quiet">Print nothing.</param>
    /// <param name="text">Gets the report.</param>
    /// <param name="writeMessage">Gets the findings, line by line.</param>
    public static int Write(
        RepairResult result, string name, bool asJson, bool quiet, TextWriter text, Action<string> writeMessage)
    {
        if (!quiet)
        {
            CheckReport.WriteFindings(result, writeMessage);
            text.Write(asJson ? CheckReport.Json(name, result) : CheckReport.Text(result));
        }

        return ExitCodeOf(result.After);
    }

    private static int ExitCodeOf(CheckResult check) =>
        check.CheckErrors > 0 ? ExitCode.Failure
        : check.Corruptions > 0 ? ExitCode.Corrupt
        : check.Leaks > 0 ? ExitCode.Leaks
        : ExitCode.Success;
}
