// SPDX-License-Identifier: MIT
using System.Text.Json.Serialization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Control.Messages;

/// <summary>What a verb came to: what the command prints, and what it ends with.</summary>
/// <param name="ExitCode">The exit code of the command.</param>
/// <param name="Output">What it prints to standard output.</param>
/// <param name="Messages">Lines for standard error besides the error.</param>
/// <param name="Error">Why it failed, one line; null where it did not.</param>
/// <param name="Hint">What can be done about it, or null.</param>
internal sealed record ControlAnswer(
    int ExitCode = 0,
    string Output = "",
    IReadOnlyList<string>? Messages = null,
    string? Error = null,
    string? Hint = null)
{
    /// <summary>While something takes, the daemon gives a sign of life after so long each time.</summary>
    public static readonly TimeSpan SignPeriod = TimeSpan.FromSeconds(3);
}

/// <summary>Which image is meant.</summary>
/// <param name="Image">Its path as <c>/v1/mounts</c> has it.</param>
/// <param name="Name">Its name in what is printed; null for its path.</param>
internal abstract record ControlCall(string Image, string? Name)
{
    /// <summary>The image's name in what is printed.</summary>
    [JsonIgnore]
    public string Shown => Name ?? Image;
}

/// <summary><c>info</c>.</summary>
internal sealed record InfoCall(
    string Image, string? Name = null, string? Format = null, bool Json = false) : ControlCall(Image, Name);

/// <summary><c>check</c> without repair.</summary>
internal sealed record CheckCall(
    string Image, string? Name = null, bool Json = false, bool Quiet = false) : ControlCall(Image, Name);

/// <summary><c>snapshot</c>: one of the three, or a list.</summary>
internal sealed record SnapshotCall(
    string Image, string? Name = null, string? Create = null, string? Apply = null, string? Delete = null,
    bool Json = false) : ControlCall(Image, Name);

/// <summary><c>resize</c>.</summary>
/// <param name="Size">As on the command line, so that +1G means what the disk has when it is done.</param>
/// <param name="Preallocation">off, metadata, falloc or full.</param>
internal sealed record ResizeCall(
    string Image, string Size, string? Name = null, string? Preallocation = null, bool Shrink = false,
    bool Quiet = false) : ControlCall(Image, Name);

/// <summary>One action of <c>bitmap</c>, such as <c>--add</c>.</summary>
/// <param name="Action">As on the command line.</param>
/// <param name="Source">For <c>--merge</c> the bitmap that is read.</param>
internal sealed record BitmapStepCall(string Action, string? Source = null)
{
    /// <summary>The action with a bitmap to merge.</summary>
    public const string Merge = "--merge";

    /// <summary>The action that makes a bitmap.</summary>
    public const string Add = "--add";

    private static readonly Dictionary<string, BitmapAction> Actions = new(StringComparer.Ordinal)
    {
        [Add] = BitmapAction.Add,
        ["--remove"] = BitmapAction.Remove,
        ["--clear"] = BitmapAction.Clear,
        ["--enable"] = BitmapAction.Enable,
        ["--disable"] = BitmapAction.Disable,
        [Merge] = BitmapAction.Merge,
    };

    /// <summary>Whether a word is an action.</summary>
    public static bool IsAction(string word) => Actions.ContainsKey(word);

    /// <summary>The step that is meant.</summary>
    /// <exception cref="CommandException">There is no such action.</exception>
    public BitmapStep ToStep() => Actions.TryGetValue(Action, out BitmapAction action)
        ? new BitmapStep(action, Source)
        : throw CommandException.Usage($"unknown action {Printable.Text(Action)}");
}

/// <summary><c>bitmap</c>.</summary>
/// <param name="SourceFile">Absolute path of the image that has the bitmaps to merge, or null.</param>
internal sealed record BitmapCall(
    string Image, string Bitmap, IReadOnlyList<BitmapStepCall> Steps, string? Name = null, long Granularity = 0,
    string? SourceFile = null, string? SourceFormat = null) : ControlCall(Image, Name);

/// <summary><c>umount</c>.</summary>
internal sealed record UmountCall(bool Lazy = false);

/// <summary>What a daemon says of its mount.</summary>
/// <param name="File">Absolute path of the raw file of the disk.</param>
/// <param name="Device">Number of the file system the image is on, or of the device it is.</param>
/// <param name="Inode">Its inode there.</param>
internal sealed record MountedImageReport(
    string Image, string File, bool IsOpen, bool IsReadOnly, long VirtualSize, ulong Device, ulong Inode,
    MountedImageRequests Requests);

/// <summary>What the requests of an image's files add up to.</summary>
internal sealed record MountedImageRequests(
    long Reads, long ReadBytes, long Writes, long WrittenBytes, long Zeroes, long ZeroedBytes, long Flushes);

/// <summary>The mount of a daemon.</summary>
/// <param name="Connection">The kernel's number of its session, the minor number of the mount's device; −1 where it is
/// not known.</param>
internal sealed record MountReport(
    int Pid, string MountPoint, string Source, bool IsReadOnly, IReadOnlyList<MountedImageReport> Images,
    int Connection = -1);

/// <summary>What <c>/v1/mounts</c> answers.</summary>
internal sealed record MountsReport(int Schema, IReadOnlyList<MountReport> Mounts);

/// <summary>The JSON forms of all of them.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.KebabCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    Converters = [typeof(JsonName)],
    RespectNullableAnnotations = true,
    RespectRequiredConstructorParameters = true)]
[JsonSerializable(typeof(ControlAnswer))]
[JsonSerializable(typeof(InfoCall))]
[JsonSerializable(typeof(CheckCall))]
[JsonSerializable(typeof(SnapshotCall))]
[JsonSerializable(typeof(ResizeCall))]
[JsonSerializable(typeof(BitmapCall))]
[JsonSerializable(typeof(UmountCall))]
[JsonSerializable(typeof(MountsReport))]
internal sealed partial class ControlJson : JsonSerializerContext;
