// SPDX-License-Identifier: MIT
using System.Diagnostics;

namespace Qcow2Fuse.Testing;

/// <summary>A program that a test talks with, line by line. It is killed where it still runs in the end.</summary>
public sealed class RunningProcess : IDisposable
{
    private readonly Process _process;

    private RunningProcess(Process process) => _process = process;

    /// <summary>Starts a program; its standard error is the test's.</summary>
    public static RunningProcess Start(string program, IEnumerable<string> arguments)
    {
        ProcessStartInfo start = new(program) { RedirectStandardInput = true, RedirectStandardOutput = true };
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        return new RunningProcess(Process.Start(start)!);
    }

    /// <summary>Waits for the next line it prints; null where it has ended.</summary>
    public string? ReadLine()
    {
        Task<string?> line = _process.StandardOutput.ReadLineAsync();
        return line.Wait(Eventually.Patience)
            ? line.Result : throw new TimeoutException($"{_process.StartInfo.FileName} says nothing");
    }

    /// <summary>Tells it a line.</summary>
    public void WriteLine(string line) => _process.StandardInput.WriteLine(line);

    /// <inheritdoc/>
    public void Dispose()
    {
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }
}
