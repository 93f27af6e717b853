// SPDX-License-Identifier: MIT
using System.Text.Json;
using Microsoft.Extensions.Configuration;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;
using Qcow2Fuse.Start;

namespace Qcow2Fuse.Settings;

/// <summary>
/// Collects the settings of a mount. Later sources win: <c>/etc/qcow2fuse/qcow2fuse.json</c>, the user's
/// <c>~/.config/qcow2fuse/qcow2fuse.json</c>, the environment (<c>QCOW2FUSE_NAME</c>), the command line.
/// </summary>
internal static class SettingsLoader
{
    private const string EnvironmentPrefix = "QCOW2FUSE_";
    private const string SourceKey = "source";
    private const string DirectoryKey = "directory";

    private static int _hasWarned;

    /// <summary>The settings files that are looked for, the weakest first. A missing HOME means no file of the user.
    /// </summary>
    public static IReadOnlyList<string> Files
    {
        get
        {
            List<string> files = ["/etc/qcow2fuse/qcow2fuse.json"];
            string? home = ProcessEnvironment.Get("HOME");
            string? configuration = ProcessEnvironment.Get("XDG_CONFIG_HOME");
            if (string.IsNullOrEmpty(configuration) && !string.IsNullOrEmpty(home))
                configuration = Path.Combine(home, ".config");
            if (!string.IsNullOrEmpty(configuration))
                files.Add(Path.Combine(configuration, "qcow2fuse/qcow2fuse.json"));
            return files;
        }
    }

    /// <summary>Reads all sources.</summary>
    /// <param name="files">Settings files, the weakest first; those that do not exist are skipped.</param>
    /// <param name="options">The options of the command line.</param>
    /// <param name="source">The image named there, or null.</param>
    /// <param name="directory">The mount point named there, or null.</param>
    /// <exception cref="CommandException">A file that cannot be read or parsed, or a value that makes no sense.
    /// </exception>
    public static MountSettings Load(
        IEnumerable<string> files, OptionList options, string? source, string? directory)
    {
        ConfigurationBuilder builder = new();
        foreach (string file in files.Where(File.Exists))
            builder.AddInMemoryCollection(WithoutOpposites(Checked(ReadFile(file), file).AsEnumerable()));
        Dictionary<string, string?> variables = EnvironmentPairs();
        WarnOfUnknown(variables.Keys);
        builder.AddInMemoryCollection(WithoutOpposites(variables));
        builder.AddInMemoryCollection(Pairs(options, source, directory));
        IConfigurationRoot configuration = builder.Build();

        MountSettings settings = new()
        {
            Source = NullIfEmpty(configuration[SourceKey]),
            Directory = NullIfEmpty(configuration[DirectoryKey]),
        };
        List<string> given = [];
        foreach (MountOption option in MountOptions.All)
        {
            // All sources say "rw" as "ro" with another value by now.
            if (option.IsOpposite)
                continue;
            foreach (string value in Values(configuration, option))
            {
                Apply(option, value, settings);
                if (!option.IsOfStart)
                    given.Add($"{option.Name}={value}");
            }
        }

        settings.Given = given;
        return settings;
    }

    /// <summary>
    /// The mount point alone, whatever else the sources say: a word in them that makes no sense does not keep anybody
    /// from unmounting. Null where none names it.
    /// </summary>
    /// <param name="files">Settings files, the weakest first; those that do not exist are skipped.</param>
    /// <exception cref="CommandException">A file that cannot be read or parsed.</exception>
    public static string? DirectoryOf(IEnumerable<string> files)
    {
        string? named = EnvironmentPairs().GetValueOrDefault(DirectoryKey);
        foreach (string file in files.Reverse().Where(File.Exists))
        {
            if (!string.IsNullOrEmpty(named))
                break;
            named = ReadFile(file)[DirectoryKey];
        }

        return NullIfEmpty(named);
    }

    /// <summary>"noexec" in a source is "exec" with the other value.</summary>
    private static Dictionary<string, string?> WithoutOpposites(IEnumerable<KeyValuePair<string, string?>> source)
    {
        Dictionary<string, string?> pairs = new(StringComparer.OrdinalIgnoreCase);
        foreach ((string name, string? value) in source)
        {
            MountOption? opposite = MountOptions.All.FirstOrDefault(option =>
                option.IsOpposite && string.Equals(option.Name, name, StringComparison.OrdinalIgnoreCase));
            if (opposite is null)
                pairs[name] = value;
            else if (!string.IsNullOrEmpty(value))
                pairs[opposite.Key] = Negated(opposite, value);
        }

        return pairs;
    }

    private static string Negated(MountOption option, string value)
    {
        try
        {
            return MountOption.Negate(value);
        }
        catch (FormatException exception)
        {
            throw CommandException.Usage($"option {option.Name}={value}: {exception.Message}", inner: exception);
        }
    }

    /// <summary>
    /// Warns of a variable that nearly has the name of an option. Others may be anybody's. The first process does it,
    /// and once.
    /// </summary>
    private static void WarnOfUnknown(IEnumerable<string> names)
    {
        if (BackgroundStart.IsChild || Interlocked.Exchange(ref _hasWarned, 1) == 1)
            return;
        IReadOnlyList<string> known =
            [SourceKey, DirectoryKey, .. MountOptions.All.Select(static option => option.Name)];
        foreach (string name in names.Where(static name => !IsKnown(name.Split(':')[0])))
        {
            if (Suggestion.Nearest(name.ToLowerInvariant(), known) is { } meant)
            {
                Report.Warning(
                    $"the variable {EnvironmentPrefix}{name} is not known "
                    + $"(did you mean {EnvironmentPrefix}{meant.ToUpperInvariant()}?)");
            }
        }
    }

    private static void Apply(MountOption option, string value, MountSettings settings)
    {
        try
        {
            option.Apply(settings, value);
        }
        catch (FormatException exception)
        {
            string shown = option.IsPrivate ? "" : $"={value}";
            throw CommandException.Usage($"option {option.Name}{shown}: {exception.Message}", inner: exception);
        }
    }

    /// <summary>
    /// The values of an option. A list comes whole from the strongest source that has one: the configuration system
    /// would mix the lists of two sources by position.
    /// </summary>
    private static IEnumerable<string> Values(IConfigurationRoot configuration, MountOption option)
    {
        if (!option.Repeatable)
            return NullIfEmpty(configuration[option.Name]) is { } value ? [value] : [];
        foreach (IConfigurationProvider provider in configuration.Providers.Reverse())
        {
            IConfigurationRoot alone = new ConfigurationRoot([provider]);
            if (NullIfEmpty(alone[option.Name]) is { } single)
                return [single];
            string[] values = [.. alone.GetSection(option.Name).GetChildren().Select(static c => c.Value ?? "")];
            if (values.Length > 0)
                return values;
        }

        return [];
    }

    /// <summary>As the configuration system has them, but with names as their bytes.</summary>
    private static Dictionary<string, string?> EnvironmentPairs()
    {
        Dictionary<string, string?> pairs = new(StringComparer.OrdinalIgnoreCase);
        foreach (object key in Environment.GetEnvironmentVariables().Keys)
        {
            string name = (string)key;
            if (name.StartsWith(EnvironmentPrefix, StringComparison.OrdinalIgnoreCase))
            {
                pairs[name[EnvironmentPrefix.Length..].Replace("__", ":", StringComparison.Ordinal)] =
                    ProcessEnvironment.Get(name);
            }
        }

        return pairs;
    }

    private static IEnumerable<KeyValuePair<string, string?>> Pairs(
        OptionList options, string? source, string? directory)
    {
        Dictionary<string, string?> pairs = new(StringComparer.OrdinalIgnoreCase);
        int position = 0;
        foreach ((MountOption option, string value) in options.Entries)
            pairs[option.Repeatable ? $"{option.Key}:{position++}" : option.Key] = value;
        if (source is not null)
            pairs[SourceKey] = source;
        if (directory is not null)
            pairs[DirectoryKey] = directory;
        return pairs;
    }

    private static IConfigurationRoot Checked(IConfigurationRoot file, string path)
    {
        foreach (IConfigurationSection entry in file.GetChildren())
        {
            if (!IsKnown(entry.Key))
                throw CommandException.Usage($"{path}: unknown setting {entry.Key}");
        }

        return file;
    }

    private static IConfigurationRoot ReadFile(string path)
    {
        try
        {
            using FileStream stream = File.OpenRead(path);
            return new ConfigurationBuilder().AddJsonStream(stream).Build();
        }
        catch (Exception exception) when (exception is FormatException or JsonException)
        {
            // The configuration system wraps the parser's exception when it reads files, but not streams.
            JsonException? cause = exception as JsonException ?? exception.InnerException as JsonException;
            string where = cause?.LineNumber is { } line
                ? $"line {line + 1}: "
                : "";
            throw CommandException.Usage(
                $"{path}: {where}not a settings file: {Reason(cause ?? exception)}",
                "it holds one JSON object, such as { \"cache\": \"none\" }",
                exception);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw CommandException.Usage($"{path}: cannot be read: {exception.Message}", inner: exception);
        }
    }

    /// <summary>The parser's sentence without the position it adds, which the message has already.</summary>
    private static string Reason(Exception exception)
    {
        string text = exception.Message;
        int position = text.IndexOf(" LineNumber:", StringComparison.Ordinal);
        return (position < 0 ? text : text[..position]).TrimEnd('.');
    }

    private static bool IsKnown(string key) =>
        string.Equals(key, SourceKey, StringComparison.OrdinalIgnoreCase)
        || string.Equals(key, DirectoryKey, StringComparison.OrdinalIgnoreCase)
        || MountOptions.All.Any(option => string.Equals(key, option.Name, StringComparison.OrdinalIgnoreCase));

    private static string? NullIfEmpty(string? text) => string.IsNullOrEmpty(text) ? null : text;
}
