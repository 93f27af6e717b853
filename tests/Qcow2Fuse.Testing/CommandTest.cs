// SPDX-License-Identifier: MIT
using Xunit;

namespace Qcow2Fuse.Testing;

/// <summary>
/// A test of the built program: a directory of its own, the program run in it, and what it printed compared literally.
/// The program is <c>QCOW2FUSE_BIN</c>, or <c>out/qcow2fuse</c> found upwards from the test assembly.
/// </summary>
public abstract class CommandTest : IDisposable
{
    private readonly TempDirectory _directory = new();
    private readonly Dictionary<string, string?> _environment = new()
    {
        ["HOME"] = "/nonexistent",
        ["XDG_CONFIG_HOME"] = null,
        ["NO_COLOR"] = "1",
        ["LC_ALL"] = "C.UTF-8",
    };

    /// <summary>The directory of this test, which is the program's working directory.</summary>
    protected string WorkDirectory => _directory.Path;

    /// <summary>The path of the built program, or null where it was not built.</summary>
    public static string? FindProgram()
    {
        string? named = Environment.GetEnvironmentVariable("QCOW2FUSE_BIN");
        if (!string.IsNullOrEmpty(named))
            return named;
        for (DirectoryInfo? at = new(AppContext.BaseDirectory); at is not null; at = at.Parent)
        {
            string candidate = Path.Combine(at.FullName, "out", "qcow2fuse");
            if (File.Exists(candidate))
                return candidate;
        }

        return null;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Sets a variable of the program's environment; null removes it.</summary>
    protected void SetEnvironment(string name, string? value) => _environment[name] = value;

    /// <summary>The absolute path of a file in the directory of this test.</summary>
    protected string PathOf(string name) => _directory.File(name);

    /// <summary>Runs the program with these arguments; skips the test where it was not built.</summary>
    protected ProcessResult Run(params string[] arguments) => Run(ProcessRunner.DefaultTimeout, arguments);

    /// <summary>Runs the program with a time limit, past which it is killed and the test fails.</summary>
    protected ProcessResult Run(TimeSpan timeout, params string[] arguments)
    {
        string? program = FindProgram();
        QemuTools.Require(program is not null, "out/qcow2fuse is not built");
        return ProcessRunner.Run(program!, arguments, WorkDirectory, _environment, timeout);
    }

    /// <summary>
    /// Runs the program and compares exit code, standard output and standard error literally. The directory of this
    /// test is written <c>DIR</c> in the expected texts.
    /// </summary>
    protected void ShouldPrint(int exitCode, string output, string error, params string[] arguments)
    {
        ProcessResult result = Run(arguments);
        string Neutral(string text) => text.Replace(WorkDirectory, "DIR", StringComparison.Ordinal);
        Assert.Equal(
            $"exit {exitCode}\n--- stdout\n{output}--- stderr\n{error}",
            $"exit {result.ExitCode}\n--- stdout\n{Neutral(result.Output)}--- stderr\n{Neutral(result.Error)}");
    }

    /// <summary>Removes the directory; called once after each test.</summary>
    protected virtual void Dispose(bool disposing)
    {
        if (disposing)
            _directory.Dispose();
    }
}
