// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text;
using System.Text.Json;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Mounts;

namespace Qcow2Fuse.Commands;

/// <summary>The mounted images as <c>list</c> prints them.</summary>
internal static class StackReport
{
    /// <summary>Version of the JSON form; it changes when a key changes its meaning or goes.</summary>
    private const int Schema = 1;

    private static readonly string[] Titles = ["IMAGE", "MOUNTED ON", "PID", "USER", "LOOP DEVICES"];

    /// <summary>A table for people, with newlines; empty where nothing is mounted.</summary>
    /// <param name="stacks">The mounted images.</param>
    /// <param name="ask">What the daemon of one says, or null for one that does not answer; null to ask none.</param>
    public static string Text(IReadOnlyList<Stack> stacks, Func<Stack, MountReport?>? ask)
    {
        if (stacks.Count == 0)
            return "";
        string[][] rows = [Titles, .. stacks.Select(Row)];
        int[] widths = [.. Titles.Select((_, column) => rows.Max(row => row[column].Length))];
        StringBuilder text = new();
        for (int i = 0; i < rows.Length; i++)
        {
            IEnumerable<string> cells = rows[i].Select((cell, column) => cell.PadRight(widths[column]));
            text.AppendLine(string.Join("  ", cells).TrimEnd());
            if (i > 0 && ask is not null)
                Append(ask(stacks[i - 1]), text);
        }

        return text.ToString();
    }

    private static void Append(MountReport? mount, StringBuilder text)
    {
        if (mount is null)
            text.AppendLine("  the daemon does not answer");
        foreach (MountedImageReport image in mount?.Images ?? [])
        {
            MountedImageRequests requests = image.Requests;
            text.AppendLine(
                CultureInfo.InvariantCulture,
                $"  {Printable.Text(image.File)}: {SizeText.Human(image.VirtualSize)}, "
                + $"{(image.IsOpen ? "open" : "closed")}{(image.IsReadOnly ? ", read-only" : "")}; "
                + $"{requests.Reads} reads ({SizeText.Human(requests.ReadBytes)}), "
                + $"{requests.Writes} writes ({SizeText.Human(requests.WrittenBytes)}), {requests.Flushes} flushes");
        }
    }

    /// <summary>An object for programs, without a newline at its end; its parameters are those of the text.</summary>
    public static string Json(IReadOnlyList<Stack> stacks, Func<Stack, MountReport?>? ask) => JsonText.Format(json =>
    {
        json.WriteStartObject();
        json.WriteNumber("schema", Schema);
        json.WriteStartArray("mounts");
        foreach (Stack stack in stacks)
            Write(stack, json, ask);
        json.WriteEndArray();
        json.WriteEndObject();
    });

    private static string[] Row(Stack stack) =>
    [
        Printable.Text(stack.Image),
        Printable.Text(stack.Mount.MountPoint),
        stack.ProcessId?.ToString(CultureInfo.InvariantCulture) ?? "-",
        stack.UserId is { } id ? UserName(id) ?? id.ToString(CultureInfo.InvariantCulture) : "-",
        Printable.Text(string.Join(", ", stack.Loops.Select(static loop => loop.MountPoints.Count == 0
            ? loop.Loop.Path
            : $"{loop.Loop.Path} on {string.Join(" and ", loop.MountPoints)}"))),
    ];

    private static void Write(Stack stack, Utf8JsonWriter json, Func<Stack, MountReport?>? ask)
    {
        json.WriteStartObject();
        JsonName.Write(json, "image", stack.Image);
        JsonName.Write(json, "mount-point", stack.Mount.MountPoint);
        json.WriteBoolean("read-only", stack.IsReadOnly);
        json.WriteBoolean("attached", stack.IsAttached);
        if (stack.ProcessId is { } process)
            json.WriteNumber("pid", process);
        if (stack.UserId is { } id)
        {
            json.WriteNumber("uid", id);
            if (UserName(id) is { } name)
                json.WriteString("user", name);
        }

        json.WriteStartArray("loop-devices");
        foreach (StackedLoop loop in stack.Loops)
        {
            json.WriteStartObject();
            json.WriteString("device", loop.Loop.Path);
            JsonName.Write(json, "file", loop.Loop.BackingFile);
            json.WriteStartArray("mount-points");
            foreach (string mountPoint in loop.MountPoints)
                json.WriteStringValue(mountPoint);
            json.WriteEndArray();
            json.WriteEndObject();
        }

        json.WriteEndArray();
        if (ask is not null)
        {
            json.WritePropertyName("daemon");
            if (ask(stack) is { } mount)
                JsonSerializer.Serialize(json, mount, ControlJson.Default.MountReport);
            else
                json.WriteNullValue();
        }

        json.WriteEndObject();
    }

    /// <summary>A user's name from /etc/passwd; null for users who are not in it.</summary>
    private static string? UserName(uint id)
    {
        try
        {
            string number = id.ToString(CultureInfo.InvariantCulture);
            return File.ReadLines("/etc/passwd")
                .Select(static line => line.Split(':'))
                .FirstOrDefault(fields => fields.Length > 2 && fields[2] == number)?[0];
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
