// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Processes;

/// <summary>Where a standard stream of a started program leads.</summary>
public enum ProgramStream
{
    /// <summary>Nowhere: /dev/null.</summary>
    Nothing,

    /// <summary>To where that of this process leads.</summary>
    Inherited,

    /// <summary>To a pipe whose other end this process has.</summary>
    Pipe,
}

/// <summary>
/// What is started and what it gets. A program inherits no descriptor but its standard streams and
/// <see cref="Descriptors"/>, unless <see cref="InheritsAll"/> is set.
/// </summary>
public sealed class ProgramStart
{
    /// <summary>The file to execute; a name without a slash only with <see cref="SearchesPath"/>.</summary>
    public required string Path { get; init; }

    /// <summary>Its arguments without the first, which is <see cref="Path"/>.</summary>
    public IReadOnlyList<string> Arguments { get; init; } = [];

    /// <summary>
    /// Variables that differ from this process's environment, null to take one away; all variables there are with
    /// <see cref="HasOwnEnvironment"/>.
    /// </summary>
    public IReadOnlyList<(string Name, string? Value)> Variables { get; init; } = [];

    /// <summary>Nothing of this process's environment is passed on.</summary>
    public bool HasOwnEnvironment { get; init; }

    /// <summary>Standard input.</summary>
    public ProgramStream Input { get; init; }

    /// <summary>Standard output.</summary>
    public ProgramStream Output { get; init; }

    /// <summary>Standard error.</summary>
    public ProgramStream Errors { get; init; }

    /// <summary>Descriptors of 3 and above that it gets under the same numbers.</summary>
    public IReadOnlyCollection<int> Descriptors { get; init; } = [];

    /// <summary>
    /// It gets every descriptor that this process was started with, as a command gets that a shell starts.
    /// </summary>
    public bool InheritsAll { get; init; }

    /// <summary>
    /// A name without a slash is looked for in the directories of PATH, as a shell does, and nowhere else.
    /// </summary>
    public bool SearchesPath { get; init; }

    /// <summary>Its current directory; null for that of this process.</summary>
    public string? WorkingDirectory { get; init; }
}
