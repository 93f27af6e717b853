// SPDX-License-Identifier: MIT
using System.Diagnostics;

namespace Qcow2Fuse.Testing;

/// <summary>What a program printed and how it ended.</summary>
/// <param name="ExitCode">Its exit code; 128 plus the signal's number where a signal ended it.</param>
/// <param name="Output">All of its standard output.</param>
/// <param name="Error">All of its standard error.</param>
public sealed record ProcessResult(int ExitCode, string Output, string Error)
{
    /// <summary>Itself if the exit code is 0; otherwise throws with all that was printed.</summary>
    public ProcessResult ShouldSucceed()
    {
        if (ExitCode != 0)
            throw new InvalidOperationException($"exit code {ExitCode}\nstdout: {Output}\nstderr: {Error}");
        return this;
    }
}

/// <summary>Runs programs with a time limit and without a shell.</summary>
public static class ProcessRunner
{
    /// <summary>The time limit where none is given.</summary>
    public static readonly TimeSpan DefaultTimeout = Eventually.Patience;

    /// <summary>
    /// Runs <paramref name="program"/> to its end. Standard input is empty. Past the time limit the program and its
    /// children are killed and <see cref="TimeoutException"/> is thrown.
    /// </summary>
    public static ProcessResult Run(
        string program,
        IEnumerable<string> arguments,
        string? directory = null,
        IReadOnlyDictionary<string, string?>? environment = null,
        TimeSpan? timeout = null)
    {
        ProcessStartInfo start = new(program)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
            WorkingDirectory = directory ?? string.Empty,
        };
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        foreach ((string name, string? value) in environment ?? new Dictionary<string, string?>())
            start.Environment[name] = value;

        using Process process = Process.Start(start) ?? throw new InvalidOperationException($"{program}: not started");
        process.StandardInput.Close();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        Task<string> error = process.StandardError.ReadToEndAsync();
        TimeSpan limit = timeout ?? DefaultTimeout;
        if (!process.WaitForExit(limit) || !Task.WaitAll([output, error], limit))
        {
            if (!process.HasExited)
                process.Kill(entireProcessTree: true);
            throw new TimeoutException($"{program} {string.Join(' ', start.ArgumentList)}: not done after {limit}");
        }

        return new ProcessResult(process.ExitCode, output.Result, error.Result);
    }

    /// <summary>The absolute path of a program on PATH or in the sbin directories, or null.</summary>
    public static string? Find(string program)
    {
        string path = Environment.GetEnvironmentVariable("PATH") ?? string.Empty;
        return path.Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Concat(["/usr/sbin", "/sbin"])
            .Select(directory => Path.Combine(directory, program))
            .FirstOrDefault(File.Exists);
    }
}
