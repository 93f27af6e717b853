// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Commands;

/// <summary>
/// The descriptors of the caller that a mount was told to use: <c>fd:N</c> of a secret, and a path in <c>/dev/fd</c> or
/// <c>/proc/self/fd</c>. No other descriptor is meant for it.
/// </summary>
internal static class NamedDescriptors
{
    private const int FirstOther = 3;
    private const string ServiceProcess = "LISTEN_PID";
    private const string ServiceCount = "LISTEN_FDS";

    /// <summary>
    /// Those that are open, standard streams left out; with those that a service manager hands to this process
    /// (sd_listen_fds(3)).
    /// </summary>
    public static List<int> Of(MountSettings settings)
    {
        List<int> named = [];
        foreach (SecretSource secret in settings.Secrets)
            named.Add(secret.Kind == SecretKind.File ? NumberOf(secret.Name) : secret.Descriptor);
        foreach (string? path in (string?[])
            [
                settings.Source, settings.Directory, settings.DataFile, .. settings.BackingFiles.Values,
                .. settings.AllowPaths,
            ])
        {
            named.Add(NumberOf(path));
        }

        if (ReadVariable(ServiceProcess) == Environment.ProcessId)
            named.AddRange(Enumerable.Range(FirstOther, ReadVariable(ServiceCount)));
        named.RemoveAll(static descriptor => descriptor < FirstOther || !LinuxStream.IsInherited(descriptor));
        return named;
    }

    /// <summary>"3" for <c>/dev/fd/3</c> and what lies below; −1 for other paths.</summary>
    private static int NumberOf(string? path)
    {
        foreach (string start in (string[])["/dev/fd/", "/proc/self/fd/"])
        {
            if (path is null || !path.StartsWith(start, StringComparison.Ordinal))
                continue;
            string[] rest = path[start.Length..].Split('/', 2);
            if (int.TryParse(rest[0], NumberStyles.None, CultureInfo.InvariantCulture, out int descriptor))
                return descriptor;
        }

        return -1;
    }

    private static int ReadVariable(string name) => int.TryParse(
        Environment.GetEnvironmentVariable(name), NumberStyles.None, CultureInfo.InvariantCulture, out int value)
        ? Math.Min(value, ushort.MaxValue) : 0;
}
