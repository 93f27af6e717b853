// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>A process that serves until it is disposed, which asks it to end and waits.</summary>
public sealed class Background : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(1);
    private readonly Process _process;
    private readonly string _name;

    /// <summary>Starts a program.</summary>
    public Background(string program, params string[] arguments)
    {
        _name = program;
        ProcessStartInfo start = new(program) { RedirectStandardError = true };
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        _process = Process.Start(start) ?? throw new InvalidOperationException($"{program}: not started");
    }

    /// <summary>Its process id.</summary>
    public int Id => _process.Id;

    /// <summary>Waits until it serves.</summary>
    /// <exception cref="InvalidOperationException">It ended, or a minute passed.</exception>
    public void WaitFor(Func<bool> isServing)
    {
        Tool.WaitFor(() => isServing() || _process.HasExited, $"{_name} does not serve");
        if (_process.HasExited)
            throw new InvalidOperationException($"{_name}: {_process.StandardError.ReadToEnd().Trim()}");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_process.HasExited)
        {
            try
            {
                Tool.Run("kill", "-TERM", Id.ToString(CultureInfo.InvariantCulture));
            }
            catch (InvalidOperationException) when (_process.WaitForExit(Patience))
            {
                // It has ended by itself, as some do once they are unmounted.
            }

            if (!_process.WaitForExit(Patience))
                _process.Kill();
            _process.WaitForExit();
        }

        _process.Dispose();
    }
}
