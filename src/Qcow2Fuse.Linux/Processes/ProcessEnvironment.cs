// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// The environment that programs get that this one starts: what this process was started with, byte for byte, and what
/// was changed since by <see cref="Set"/>.
/// </summary>
public static class ProcessEnvironment
{
    private const string OriginalPath = "/proc/self/environ";
    private static readonly Lock Gate = new();
    private static List<byte[]>? s_entries;

    /// <summary>
    /// Changes a variable, for this process and for those it starts; null takes it away. After a change of the user the
    /// original environment may not be readable any more, so change a variable before that.
    /// </summary>
    public static void Set(string name, string? value)
    {
        Environment.SetEnvironmentVariable(name, value);
        lock (Gate)
            Apply(s_entries ??= Read(), name, value);
    }

    /// <summary>The value of a variable as <see cref="ByteText"/> has it; null where it is not set.</summary>
    public static string? Get(string name)
    {
        // The runtime's is text: what it could not read as such has this sign in it.
        if (Environment.GetEnvironmentVariable(name) is not { } value || !value.Contains('\uFFFD'))
            return Environment.GetEnvironmentVariable(name);
        byte[] start = ByteText.Encode(name + "=");
        lock (Gate)
        {
            byte[]? entry = (s_entries ??= Read()).FindLast(entry => entry.AsSpan().StartsWith(start));
            return entry is null ? value : ByteText.DecodeToZero(entry.AsSpan(start.Length));
        }
    }

    /// <summary>The entries NAME=VALUE, each with a zero behind it, after these changes.</summary>
    internal static List<byte[]> With(IEnumerable<(string Name, string? Value)> changes)
    {
        List<byte[]> entries;
        lock (Gate)
            entries = [.. s_entries ??= Read()];
        foreach ((string name, string? value) in changes)
            Apply(entries, name, value);
        return entries;
    }

    /// <summary>One entry.</summary>
    internal static byte[] Entry(string name, string value) => ByteText.Encode($"{name}={value}\0");

    private static void Apply(List<byte[]> entries, string name, string? value)
    {
        byte[] start = ByteText.Encode(name + "=");
        entries.RemoveAll(entry => entry.AsSpan().StartsWith(start));
        if (value is not null)
            entries.Add(Entry(name, value));
    }

    /// <summary>
    /// What the kernel holds of the start of this process. Where that cannot be read (no /proc), what the runtime
    /// knows: the same but for bytes that are no text.
    /// </summary>
    private static List<byte[]> Read()
    {
        byte[] all;
        try
        {
            all = File.ReadAllBytes(OriginalPath);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return
            [
                .. from System.Collections.DictionaryEntry variable in Environment.GetEnvironmentVariables()
                   select Entry((string)variable.Key, (string?)variable.Value ?? ""),
            ];
        }

        List<byte[]> entries = [];
        for (int start = 0; start < all.Length;)
        {
            int length = all.AsSpan(start).IndexOf((byte)0);
            if (length < 0)
                break;
            if (length > 0)
                entries.Add(all[start..(start + length + 1)]);
            start += length + 1;
        }

        return entries;
    }
}
