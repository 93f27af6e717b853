// SPDX-License-Identifier: MIT
using System.Text.RegularExpressions;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Tidy;

/// <summary>
/// Which folder of a project may use which. Namespaces are folders, so that the <c>using</c> lines of a file are all of
/// its arrows. <see cref="ProjectTidyTests"/> has the same of projects.
/// </summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed partial class ArrowTests
{
    /// <summary>
    /// Each folder stands below those that it uses, which makes a circle impossible. docs/architecture.md prints this
    /// table; both are changed together.
    /// </summary>
    private const string Table =
        """
        Qcow2Fuse.Linux
          Codecs
          Libc
          Crypto: Codecs
          Fuse: Libc
          Loop: Libc
          Mounting: Libc
          Processes: Libc
          Uring: Libc
        Qcow2Fuse.Block
          Errors
          Ranges
          Memory: Errors
          Device: Errors, Memory, Ranges
          Caching: Device, Errors, Memory
          Capabilities: Device, Errors
          Filters: Device
          Partitions: Device, Errors
          Chain: Device, Errors, Filters, Memory
          Live: Chain, Device, Errors, Filters
        Qcow2Fuse.Formats
          Raw
        Qcow2Fuse.Protocols
          Files
          Memory
          Schemes: Files
        Qcow2Fuse.Qcow2
          Layout
          Core: Layout
          Encryption: Layout
          Creation: Encryption, Layout
          Metadata: Core, Layout
          Compression: Core, Layout, Metadata
          Mapping: Compression, Core, Encryption, Layout, Metadata
          Bitmaps: Core, Layout, Mapping, Metadata
          Access: Bitmaps, Compression, Core, Layout, Mapping, Metadata
          Check: Access, Core, Layout, Mapping, Metadata
          Gathering: Access, Bitmaps, Compression, Core, Layout, Mapping, Metadata
          Resizing: Access, Bitmaps, Core, Layout, Mapping, Metadata
          Snapshots: Access, Bitmaps, Core, Layout, Mapping, Metadata
          Device: Access, Bitmaps, Check, Compression, Core, Encryption, Gathering, Layout, Mapping, Metadata,
            Resizing, Snapshots
        Qcow2Fuse.Images
          Reports
          Opening: Reports
          Verbs: Opening, Reports
        Qcow2Fuse.Fuse
          Abi
          Errors
          Transport: Abi, Errors
          Mounting: Abi, Errors, Transport
          Session: Abi, Transport
          Server: Abi, Errors, Session, Transport
        Qcow2Fuse
          Output
          Mounts: Output
          Service: Output
          Start: Output
          Control.Messages: Mounts, Output
          Settings: Output, Start
          Control.Client: Control.Messages, Mounts, Output
          Hints: Mounts, Output, Settings
          Hosting.Restart: Output, Service, Settings
          Hosting.Images: Hosting.Restart, Mounts, Output, Settings
          Stacks: Hints, Mounts, Output, Settings, Start
          Hosting.Nodes: Hosting.Images, Hosting.Restart, Mounts, Settings
          Hosting.Tree: Hosting.Images, Hosting.Nodes, Hosting.Restart, Mounts, Output, Settings
          Control.Server: Control.Messages, Hints, Hosting.Images, Hosting.Nodes, Hosting.Tree, Mounts, Output
          Daemon: Control.Server, Hints, Hosting.Images, Hosting.Nodes, Hosting.Restart, Hosting.Tree, Mounts,
            Output, Service, Settings, Stacks, Start
          Commands: Control.Client, Control.Messages, Daemon, Hints, Hosting.Tree, Mounts, Output, Service, Settings,
            Stacks, Start
          .: Commands, Hints, Output
        """;

    private static readonly Lazy<IReadOnlyDictionary<string, string>> Types = new(FindTypes);

    [Fact]
    public void Namespaces_are_folders() => NothingIn(
        from path in Sources
        let stated = Namespace().Match(SourceTree.TextOf(path)).Groups[1].Value
        where stated != FolderOf(path)
        select $"{path}: namespace {stated}");

    /// <summary>What lies above a folder is seen from it without a using line.</summary>
    [Fact]
    public void A_folder_has_files_or_folders() => NothingIn(
        from folder in Sources.Select(FolderOf).Distinct(StringComparer.Ordinal)
        where folder != "Qcow2Fuse" && Sources.Any(path => FolderOf(path).StartsWith(
            folder + ".", StringComparison.Ordinal))
        select $"{folder} has files and folders");

    [Fact]
    public void Folders_use_what_the_table_says_and_no_more()
    {
        Dictionary<string, string[]> allowed = Read(Table);
        NothingIn(
            from folder in allowed.Keys.Union(Sources.Select(FolderOf), StringComparer.Ordinal)
            let used = Sources.Where(path => FolderOf(path) == folder).SelectMany(ArrowsOf)
                .Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)
            let said = allowed.GetValueOrDefault(folder, []).Order(StringComparer.Ordinal)
            where !allowed.ContainsKey(folder) || !used.SequenceEqual(said, StringComparer.Ordinal)
            select $"{folder} uses {string.Join(", ", used)}; the table says {string.Join(", ", said)}");
    }

    [Fact]
    public void Every_arrow_of_the_table_points_up_the_page()
    {
        List<string> seen = [];
        foreach ((string folder, string[] arrows) in Read(Table))
        {
            Assert.Empty(arrows.Except(seen, StringComparer.Ordinal).Select(arrow => $"{folder} uses {arrow}"));
            seen.Add(folder);
        }
    }

    /// <summary>A name with its folder in front needs no using line.</summary>
    [Fact]
    public void No_arrow_is_hidden_in_a_name() => NothingIn(
        from path in Sources
        from line in SourceTree.LinesOf(path)
        where !line.StartsWith("using ", StringComparison.Ordinal)
            && !line.TrimStart().StartsWith("//", StringComparison.Ordinal)
        from Match name in QualifiedName().Matches(line)
        where Types.Value.TryGetValue(name.Groups[2].Value, out string? folder)
            && folder != FolderOf(path)
            && ("." + folder).EndsWith("." + name.Groups[1].Value, StringComparison.Ordinal)
        select $"{path}: {name.Value}");

    [Fact]
    public void The_architecture_is_documented_as_it_is()
    {
        string document = SourceTree.TextOf("docs/architecture.md").ReplaceLineEndings("\n");
        Assert.Contains(Table.ReplaceLineEndings("\n"), document, StringComparison.Ordinal);
    }

    private static IEnumerable<string> Sources =>
        SourceTree.CodeFiles.Where(static path => path.StartsWith("src/", StringComparison.Ordinal));

    /// <summary>As its namespace: <c>Qcow2Fuse.Block.Device</c>.</summary>
    private static string FolderOf(string path) => Path.GetDirectoryName(path)!["src/".Length..].Replace('/', '.');

    private static string ProjectOf(string path) => path.Split('/')[1];

    /// <summary>The other folders of its project that a file uses.</summary>
    private static IEnumerable<string> ArrowsOf(string path)
    {
        string project = ProjectOf(path);
        HashSet<string> own = [.. Sources.Where(other => ProjectOf(other) == project).Select(FolderOf)];
        return
            from Match use in Using().Matches(SourceTree.TextOf(path))
            let folder = own.FirstOrDefault(one => use.Groups[1].Value == one)
                ?? own.FirstOrDefault(one => use.Groups[1].Value.StartsWith(one + ".", StringComparison.Ordinal)
                    && use.Groups[1].Value.LastIndexOf('.') == one.Length)
            where folder is not null && folder != FolderOf(path) && folder != project
            select folder;
    }

    /// <summary>
    /// The lines of a project's folders follow its name: <c>Folder</c>, or <c>Folder: Folder, Folder</c>, which may go
    /// on in lines that are indented further. The folder of the project itself is a dot.
    /// </summary>
    private static Dictionary<string, string[]> Read(string table)
    {
        Dictionary<string, string[]> folders = new(StringComparer.Ordinal);
        string project = "";
        foreach (string line in table.Replace(",\n    ", ", ", StringComparison.Ordinal).Split('\n'))
        {
            if (!line.StartsWith(' '))
            {
                project = line;
                continue;
            }

            string[] parts = line.Trim().Split(": ");
            string name = parts[0] == "." ? project : $"{project}.{parts[0]}";
            folders.Add(name, parts.Length == 1 ? [] : [.. parts[1].Split(", ").Select(one => $"{project}.{one}")]);
        }

        return folders;
    }

    private static Dictionary<string, string> FindTypes()
    {
        Dictionary<string, string> types = new(StringComparer.Ordinal);
        foreach (string path in Sources)
        {
            foreach (Match type in DeclaredType().Matches(SourceTree.TextOf(path)))
                types[type.Groups[1].Value] = FolderOf(path);
        }

        return types;
    }

    private static void NothingIn(IEnumerable<string> complaints) => Assert.Equal("", string.Join('\n', complaints));

    [GeneratedRegex(@"^namespace ([\w.]+);", RegexOptions.Multiline)]
    private static partial Regex Namespace();

    [GeneratedRegex(@"^using (?:static )?(?:\w+ = )?([\w.]+);", RegexOptions.Multiline)]
    private static partial Regex Using();

    [GeneratedRegex(@"(?<![\w.""])((?:[A-Z]\w*\.)*[A-Z]\w*)\.([A-Z]\w*)")]
    private static partial Regex QualifiedName();

    [GeneratedRegex(
        @"^(?:[a-z]+ )*(?:class|struct|interface|enum|record(?: struct| class)?) (\w+)", RegexOptions.Multiline)]
    private static partial Regex DeclaredType();
}
