// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>Runs scripts with sh(1).</summary>
internal static class Shell
{
    private static readonly TimeSpan Patience = Eventually.Patience;

    /// <summary>Runs a script; its exit code and all it printed. Arguments are $1, $2 ... in it.</summary>
    public static (int ExitCode, string Output) Run(string script, params string[] arguments)
    {
        ProcessStartInfo start = new("/bin/sh")
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
        };
        foreach (string argument in (string[])["-c", "exec 2>&1\n" + script, "sh", .. arguments])
            start.ArgumentList.Add(argument);
        using Process process = Process.Start(start)!;
        process.StandardInput.Close();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        if (process.WaitForExit(Patience) && output.Wait(Patience))
            return (process.ExitCode, output.Result);

        process.Kill(entireProcessTree: true);
        throw new TimeoutException($"a script did not end: {script}");
    }

    /// <summary>Runs a script that has to succeed and returns what it printed, without the last newline.</summary>
    public static string Output(string script, params string[] arguments)
    {
        (int exitCode, string output) = Run(script, arguments);
        return exitCode == 0
            ? output.TrimEnd('\n')
            : throw new InvalidOperationException($"exit code {exitCode}: {output}");
    }
}
