// SPDX-License-Identifier: MIT
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Tidy;

/// <summary>The rules for source files that the compiler does not check.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed partial class CodeTidyTests
{
    private const int ColumnsMax = 120;
    private const string LicenseLine = "// SPDX-License-Identifier: MIT";

    /// <summary>Projects that know of storage.</summary>
    private static readonly string[] Storage =
    [
        "src/Qcow2Fuse.Block/", "src/Qcow2Fuse.Formats/", "src/Qcow2Fuse.Images/", "src/Qcow2Fuse.Protocols/",
        "src/Qcow2Fuse.Qcow2/",
    ];

    [Fact]
    public void There_are_files_to_check() => Assert.True(SourceTree.CodeFiles.Count > 50);

    [Fact]
    public void Every_file_begins_with_its_license() =>
        NothingIn(Check(static lines => lines.Length > 0 && lines[0] == LicenseLine ? [] : [(1, "no SPDX line")]));

    [Fact]
    public void Lines_are_not_too_long() =>
        NothingIn(Check(static lines => Matching(lines, static line => line.Length > ColumnsMax, "too long")));

    [Fact]
    public void Nothing_is_left_to_be_written() =>
        NothingIn(Check(static lines => Matching(
            lines, static line => UnfinishedWork().IsMatch(line), "unfinished work")));

    [Fact]
    public void Native_calls_are_declared_in_one_project() =>
        NothingIn(SourceTree.CodeFiles
            .Where(static path => !path.StartsWith("src/Qcow2Fuse.Linux/", StringComparison.Ordinal)
                && !path.StartsWith("tests/", StringComparison.Ordinal))
            .SelectMany(static path => Matching(
                SourceTree.LinesOf(path),
                static line => NativeCall().IsMatch(line),
                "a native call outside of Qcow2Fuse.Linux").Select(found => Complaint(path, found))));

    /// <summary>
    /// One that comes again by itself overlaps with itself while what it does hangs: PeriodicWork does not, and has a
    /// guard.
    /// </summary>
    [Fact]
    public void Timers_do_not_come_again_by_themselves() =>
        NothingIn(SourceTree.CodeFiles
            .Where(static path => path.StartsWith("src/", StringComparison.Ordinal))
            .SelectMany(static path => RepeatedTimer().Matches(SourceTree.TextOf(path))
                .Select(found => Complaint(path, (0, $"a timer with a period: {found.Value}")))));

    /// <summary>A process that may open nothing has another one do that: it needs one place for it.</summary>
    [Fact]
    public void Storage_is_opened_in_one_place() =>
        NothingIn(SourceTree.CodeFiles
            .Where(static path => Storage.Any(project => path.StartsWith(project, StringComparison.Ordinal))
                && !path.EndsWith("/IOpener.cs", StringComparison.Ordinal))
            .SelectMany(static path => Matching(
                SourceTree.LinesOf(path),
                static line => OpenedFile().IsMatch(line),
                "a file that is not opened by IOpener").Select(found => Complaint(path, found))));

    /// <summary>Which kind of storage a name is of is found out in one place.</summary>
    [Fact]
    public void Names_of_storage_are_those_of_files_in_one_place() =>
        NothingIn(SourceTree.CodeFiles
            .Where(static path => path.StartsWith("src/", StringComparison.Ordinal)
                && !path.StartsWith("src/Qcow2Fuse.Protocols/", StringComparison.Ordinal))
            .SelectMany(static path => Matching(
                SourceTree.LinesOf(path),
                static line => StorageTakenForFile().IsMatch(line),
                "storage that is taken for a file").Select(found => Complaint(path, found))));

    /// <summary>It makes text of names, in which bytes that are none are lost (docs/decisions/0011).</summary>
    [Fact]
    public void Names_go_through_one_codec() =>
        NothingIn(SourceTree.CodeFiles
            .Where(static path => path.StartsWith("src/", StringComparison.Ordinal)
                && !path.EndsWith("/LinuxPath.cs", StringComparison.Ordinal))
            .SelectMany(static path => Matching(
                SourceTree.LinesOf(path),
                static line => NameOfClassLibrary().IsMatch(line),
                "a name that the class library reads").Select(found => Complaint(path, found))));

    /// <summary>What can be typed depends on the command, which no project below the program knows.</summary>
    [Fact]
    public void Options_are_named_by_the_program_alone() =>
        NothingIn(SourceTree.CodeFiles
            .Where(static path => path.StartsWith("src/", StringComparison.Ordinal)
                && !path.StartsWith("src/Qcow2Fuse/", StringComparison.Ordinal))
            .SelectMany(static path => Matching(
                SourceTree.LinesOf(path),
                static line => NamedOption().IsMatch(line),
                "an option of a command below the program").Select(found => Complaint(path, found))));

    [Theory]
    [InlineData("""hint: "add -o ro");""", true)]
    [InlineData("""$"say which with --data-file {name}";""", true)]
    [InlineData("""    "mount it with -r";""", true)]
    [InlineData("""Start(path, ["-o", Options(spec), "--", path]);""", false)]
    [InlineData("""count--; text = "a - b";""", false)]
    public void The_check_for_options_finds_them(string line, bool isFound) =>
        Assert.Equal(isFound, NamedOption().IsMatch(line));

    /// <summary>The class library looks for programs in the current directory, and passes descriptors on.</summary>
    [Fact]
    public void Programs_are_started_in_one_place() =>
        NothingIn(SourceTree.CodeFiles
            .Where(static path => path.StartsWith("src/", StringComparison.Ordinal))
            .SelectMany(static path => Matching(
                SourceTree.LinesOf(path),
                static line => ClassLibraryProcess().IsMatch(line),
                "a program that is not started by StartedProgram").Select(found => Complaint(path, found))));

    private static void NothingIn(IEnumerable<string> complaints) =>
        Assert.True(!complaints.Any(), string.Join('\n', complaints));

    private static IEnumerable<string> Check(Func<string[], IEnumerable<(int Line, string What)>> rule) =>
        from path in SourceTree.CodeFiles
        from found in rule(SourceTree.LinesOf(path))
        select Complaint(path, found);

    private static string Complaint(string path, (int Line, string What) found) =>
        $"{path}:{found.Line}: {found.What}";

    private static IEnumerable<(int Line, string What)> Matching(
        string[] lines, Func<string, bool> predicate, string what) =>
        lines.Select((line, i) => (Line: i + 1, Text: line))
            .Where(entry => predicate(entry.Text))
            .Select(entry => (entry.Line, what));

    // Written in pieces, so that this file does not break the rule itself.
    [GeneratedRegex(@"StringMarshalling\.Utf8|(?<!Linux)Path\.(GetFullPath|Exists)\(|(?<!LinuxPath)\.LinkTarget"
        + @"|ResolveLinkTarget|GetCommandLineArgs|File\.ReadAllText\(TablePath")]
    private static partial Regex NameOfClassLibrary();

    [GeneratedRegex(@"""[^""]*(--[a-z]|(?<=[ ""])-o [a-z]|(?<= )-[a-zA-Z](?=[ "";,]))")]
    private static partial Regex NamedOption();

    [GeneratedRegex(@"\bProcessStartInfo\b|\bProcess\.Start\b")]
    private static partial Regex ClassLibraryProcess();

    [GeneratedRegex(@"\b(TO" + "DO|FIX" + "ME|XX" + "X|HA" + @"CK)\b|NotImplemented" + "Exception")]
    private static partial Regex UnfinishedWork();

    [GeneratedRegex(@"LinuxFile\.(Open|OpenAt|Reopen)\(|LinuxDirectory\.(OpenIn|Unlink|Make)\(|new FileStream"
        + @"|\bFile\.(Open|OpenRead|OpenWrite|OpenHandle|Create|Delete|Move|Copy|WriteAll\w+)\(")]
    private static partial Regex OpenedFile();

    [GeneratedRegex(@"FileDevice\.(Open|Create)\(|new ImageOpener\(new FileStorage")]
    private static partial Regex StorageTakenForFile();

    [GeneratedRegex(@"new Timer\((?![^;]*Timeout\.InfiniteTimeSpan\);)[^;]*;")]
    private static partial Regex RepeatedTimer();

    [GeneratedRegex(@"\[(Library|Dll)Import\(")]
    private static partial Regex NativeCall();
}
