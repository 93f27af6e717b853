// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2;
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
        File.WriteAllBytes(image, state.ToArray());
        if (backing is not null)
            File.WriteAllBytes(directory.File("backing.raw"), backing);
        if (reader.DataFile is not null)
            File.WriteAllBytes(directory.File("data.raw"), reader.DataFile.ToArray());
        if (isDirty && AskRepaired(state, directory.File("repaired.qcow2")) is { } wrong)
            return wrong;

        // Refcounts of a dirty image, and flags of one that was cut off while a snapshot was made, are to be repaired.
        ProcessResult check = mayRepair
            ? QemuTools.TryImg("check", "-r", "all", "-f", "qcow2", image)
            : QemuTools.TryImg("check", "-f", "qcow2", image);
        if (check.ExitCode != 0 && (mayRepair || check.ExitCode != 3))
            return $"qemu-img check ends with {check.ExitCode}: {check.Output}{check.Error}";
        ProcessResult convert = QemuTools.TryImg("convert", "-f", "qcow2", "-O", "raw", image, raw);
        if (convert.ExitCode != 0)
            return $"qemu-img convert ends with {convert.ExitCode}: {convert.Error}";
        byte[] theirs = File.ReadAllBytes(raw), ours = reader.ReadAll();
        int differ = ours.AsSpan().CommonPrefixLength(theirs);
        return differ == ours.Length && differ == theirs.Length
            ? null
            : $"qemu-img convert sees other bytes from 0x{differ:x} on";
    }

    /// <summary>Where the engine has repaired an image, <c>qemu-img check -r all</c> finds nothing to do.</summary>
    private static string? AskRepaired(ByteImage state, string path)
    {
        CrashDevice copy = new();
        copy.Load(state.ToArray());
        ImageRepair.Dirty(copy);
        byte[] repaired = copy.Current.ToArray();
        File.WriteAllBytes(path, repaired);
        ProcessResult check = QemuTools.TryImg("check", "-r", "all", "-f", "qcow2", path);
        return check.ExitCode == 0 && File.ReadAllBytes(path).AsSpan().SequenceEqual(repaired)
            ? null
            : $"qemu-img check -r all repairs what the engine repaired: {check.Output}{check.Error}";
    }
}
