// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Check;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>
/// The second opinion: every so many states also go through <c>qemu-img check</c>, which may find leaks but no errors
/// (in a dirty image: nothing that it cannot repair, and nothing at all once the engine has repaired it), and
/// <c>qemu-img convert</c>, which must see the same bytes as the plain reader. May be shared by parallel runs.
/// </summary>
public sealed class QemuJudge(int every)
{
    private long _seen;
    private long _asked;

    /// <summary>How many states qemu-img was asked about.</summary>
    public long Asked => Interlocked.Read(ref _asked);

    /// <summary>What qemu-img finds wrong with a state, or null; null at once for most states.</summary>
    public string? Judge(ByteImage state, byte[]? backing, PlainReader reader)
    {
        if (Interlocked.Increment(ref _seen) % every != 0 || !QemuTools.HasQemuImg)
            return null;
        Interlocked.Increment(ref _asked);
        return Ask(state, backing, reader);
    }

    /// <summary>What qemu-img finds wrong with an image, or null.</summary>
    public static string? Ask(ByteImage state, byte[]? backing, PlainReader reader)
    {
        using TempDirectory directory = new();
        bool isDirty = reader.Header.Dirty;
        bool mayRepair = isDirty || reader.Check().Errors.Count > 0;
        string image = directory.File("state.qcow2"), raw = directory.File("state.raw");
        string data = directory.File("data.raw");
        File.WriteAllBytes(image, state.ToArray());
        if (backing is not null)
            File.WriteAllBytes(directory.File("backing.raw"), backing);
        if (reader.DataFile is not null)
            File.WriteAllBytes(data, reader.DataFile.ToArray());
        if (isDirty && AskRepaired(state, reader, directory.File("repaired.qcow2"), data) is { } wrong)
            return wrong;

        // Refcounts of a dirty image, and flags of one that was cut off while a snapshot was made, are to be repaired.
        string[] source = SourceOf(image, reader, data);
        ProcessResult check = QemuTools.TryImg(["check", .. mayRepair ? (string[])["-r", "all"] : [], .. source]);
        if (check.ExitCode != 0 && (mayRepair || check.ExitCode != 3))
            return $"qemu-img check ends with {check.ExitCode}: {check.Output}{check.Error}";
        ProcessResult convert = QemuTools.TryImg(["convert", .. source, "-O", "raw", raw]);
        if (convert.ExitCode != 0)
            return $"qemu-img convert ends with {convert.ExitCode}: {convert.Error}";
        byte[] theirs = File.ReadAllBytes(raw), ours = reader.ReadAll();
        int differ = ours.AsSpan().CommonPrefixLength(theirs);
        return differ == ours.Length && differ == theirs.Length
            ? null
            : $"qemu-img convert sees other bytes from 0x{differ:x} on";
    }

    /// <summary>QEMU looks for a data file where it runs, not where the image is.</summary>
    private static string[] SourceOf(string image, PlainReader reader, string data) => reader.DataFile is null
        ? ["-f", "qcow2", image]
        : ["--image-opts", $"driver=qcow2,file.filename={image},data-file.driver=file,data-file.filename={data}"];

    /// <summary>Where the engine has repaired an image, <c>qemu-img check -r all</c> finds nothing to do.</summary>
    private static string? AskRepaired(ByteImage state, PlainReader reader, string path, string data)
    {
        CrashDevice copy = new();
        copy.Load(state.ToArray());
        ImageRepair.Dirty(copy);
        byte[] repaired = copy.Current.ToArray();
        File.WriteAllBytes(path, repaired);
        ProcessResult check = QemuTools.TryImg(["check", "-r", "all", .. SourceOf(path, reader, data)]);
        return check.ExitCode == 0 && File.ReadAllBytes(path).AsSpan().SequenceEqual(repaired)
            ? null
            : $"qemu-img check -r all repairs what the engine repaired: {check.Output}{check.Error}";
    }
}
