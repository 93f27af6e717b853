// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Hints;

/// <summary>
/// What a user can do about a failure, in the words of the command that he typed. The only place that turns causes
/// into options: nothing is advised that the command does not have, or that would change another layer of a chain than
/// the one that failed.
/// </summary>
internal static class Advice
{
    private const string Container = "in a container: docker/podman run --device /dev/fuse --cap-add SYS_ADMIN";
    private const string OfRaw = "qemu-img convert -f raw -O qcow2";
    private const string WithoutLosing = "repair a copy with qemu-img check -r all";

    /// <summary>One line without "hint:"; null where nothing helps.</summary>
    public static string? For(FailureCause? cause, TypedVerb verb) => cause?.Code switch
    {
        null => null,
        FailureCode.InUse => InUse(cause, verb),
        FailureCode.NameRefused or FailureCode.DirectoryNotAllowed or FailureCode.DataFileUnnamed =>
            Reference(cause, verb),
        FailureCode.BackingMissing or FailureCode.BackingFormatUnstated => Backing(cause, verb),
        FailureCode.NoKnownFormat => verb == TypedVerb.Resize
            ? "if it is a raw disk, say so with --format raw"
            : Option(verb, "format", "raw") is { } raw ? $"if it is a raw disk, say so with {raw}" : null,
        FailureCode.Packed => "unpack it first",
        FailureCode.OtherFormat => $"qemu-img convert -f {cause.Name} -O qcow2 makes an image of it that is",
        FailureCode.Damaged => ReadOnly(verb) is { } look
            ? $"mount it read-only with {look}, or {WithoutLosing}" : WithoutLosing,
        FailureCode.DamagedHeader => ReadOnly(verb) is { } look
            ? $"mount it read-only with {look} and make another image of the raw file: {OfRaw}"
            : $"make another image of its raw file: {OfRaw}",
        FailureCode.NeedsVersion3 => "qemu-img amend -o compat=1.1 makes it an image of version 3",
        FailureCode.DamagedSeeCheck => ReadOnly(verb) is { } look
            ? $"mount it read-only with {look}; qcow2fuse check shows what is wrong"
            : "qcow2fuse check shows what is wrong",
        FailureCode.PassphraseNeeded => (verb is TypedVerb.Snapshot or TypedVerb.Bitmap or TypedVerb.Resize
            ? "--secret file:PATH" : Option(verb, "secret", "file:PATH")) is { } secret
                ? $"give the passphrase with {secret}" : null,
        FailureCode.PassphraseEndsInNewline =>
            "the passphrase ends with a newline, which counts; printf %s writes a file without one",
        FailureCode.CipherUnsupported => "AES with xts or cbc and plain, plain64 or essiv is",
        FailureCode.CompressionDiffers => $"make the image with: qcow2fuse create -o compression_type={cause.Name}",
        FailureCode.PackageMissing => $"apt install {cause.Name}",
        FailureCode.BitmapInconsistent => "it can be removed, and added again",
        FailureCode.CredentialsMissing =>
            "a unit has them from LoadCredential= or SetCredential=; see systemd.exec(5)",
        FailureCode.DescriptorNotOpened => $"in a shell: qcow2fuse ... {cause.Name}<FILE",
        FailureCode.FormatUnknown => $"the formats are {cause.Name}",
        FailureCode.SizeInvalid => "sizes are written like 512M, 10G, +1G or -1G",
        FailureCode.WouldShrink when verb == TypedVerb.Resize =>
            "--shrink allows it; what lies beyond the new end is lost",
        _ => OfMounts(cause, verb),
    };

    /// <summary>What can be done where a mount fails.</summary>
    public static string? For(FuseMountException failure) => failure.Error switch
    {
        FuseMountError.AllowOtherRefused => "add the line user_allow_other to /etc/fuse.conf (as root)",
        FuseMountError.NotPermitted => Container,
        FuseMountError.NoDevice => Container + "; on the host: ls -l /dev/fuse",
        FuseMountError.NoHelper => "apt install fuse3",
        FuseMountError.NoFileSystem => "modprobe fuse (as root)",
        FuseMountError.MountPointMissing when failure.Path is { } path => $"mkdir {ShellWord.Of(path)}",
        FuseMountError.AlreadyMounted when failure.Path is { } path => $"umount {ShellWord.Of(path)}",
        FuseMountError.StaleForeignMount when failure.Path is { } path => $"umount -l {ShellWord.Of(path)}",
        FuseMountError.Busy when failure.Path is { } path => failure.NamesUsers
            ? $"umount -l {ShellWord.Of(path)} detaches it until they let go"
            : $"fuser -vm {ShellWord.Of(path)} shows by whom",
        _ => null,
    };

    /// <summary>
    /// How a mounted image is taken away by the place where it, or the file system inside, is mounted.
    /// </summary>
    public static string ToUnmount(Stack stack)
    {
        StackedLoop? loop = stack.Loops.Count > 0 ? stack.Loops[0] : null;
        if (stack.IsAttached && loop is not null)
            return $"qcow2fuse detach {loop.Loop.Path}";
        string place = stack.IsForFileSystem && loop is { Mounts.Count: > 0 }
            ? loop.Mounts[0].MountPoint : stack.Mount.MountPoint;
        return ToUnmount(place);
    }

    /// <summary>How what this program has mounted at a place is unmounted.</summary>
    public static string ToUnmount(string place) => $"qcow2fuse umount {ShellWord.Of(place)}";

    /// <summary>Where an unmount would lose something, and is wanted all the same.</summary>
    public static string ToDetach(string place) =>
        $"qcow2fuse umount -l {ShellWord.Of(place)} detaches it all the same";

    /// <summary>For one image of a directory that is mounted.</summary>
    /// <param name="place">The mount point.</param>
    public static string ToUnmountAll(string place) => $"qcow2fuse umount {ShellWord.Of(place)} unmounts them all";

    /// <summary>For what cannot be done while an image is mounted.</summary>
    /// <param name="place">The mount point.</param>
    public static string ToUnmountFirst(string place) => $"qcow2fuse umount {ShellWord.Of(place)} first";

    /// <summary>For a device on which a file system is mounted.</summary>
    /// <param name="place">Its mount point.</param>
    public static string ToFreeDevice(string place) => $"umount {ShellWord.Of(place)}";

    /// <summary>For a loop device that this program has not made.</summary>
    public static string ToClearDevice(string device) => $"losetup -d {ShellWord.Of(device)}";

    /// <summary>Where a mount would have to be made anew.</summary>
    /// <param name="place">Its mount point.</param>
    public static string ToMountAgain(string place) => $"umount {ShellWord.Of(place)}, and mount it again";

    /// <summary>Failures that an option of a mount prevents, and no other command has.</summary>
    private static string? OfMounts(FailureCause cause, TypedVerb verb) => !HasMountOptions(verb)
        ? null : cause.Code switch
    {
        FailureCode.CannotLock => $"if you know that none does: {Option(verb, "no_lock")}",
        FailureCode.NoDirectAccess => "use cache=writeback or cache=writethrough",
        FailureCode.DirectAccessLeft => "-o cache=writeback says that this is meant",
        FailureCode.LookNeedsReadOnly => "add -o ro",
        FailureCode.BitmapsAtStake => "-o drop_bitmaps writes to it and gives its bitmaps up",
        FailureCode.UnlockTime => "-o unlock_time= allows another time",
        FailureCode.MetadataMemory => "-o metadata_memory= allows another amount for all images together",
        FailureCode.PartitionMissing => cause.Name is { } numbers
            ? $"it has {numbers}" : "the disk has no partition table; without partition= all of it is shown",
        _ => null,
    };

    private static string? InUse(FailureCause cause, TypedVerb verb)
    {
        string? mounted = StackOf(cause.Process) is { } stack
            ? $"it is {(stack.IsAttached ? "attached" : "mounted")}: {ToUnmount(stack)}" : null;
        if (HasMountOptions(verb))
        {
            const string look = "Read-only look: add -o ro,force_share";
            return mounted is null ? look : $"{mounted}. {look}";
        }

        return verb == TypedVerb.Look
            ? "-U looks at it all the same"
            : mounted ?? "unmount it, or end the virtual machine, first";
    }

    /// <summary>Where a daemon of this user has an image mounted; null for other processes.</summary>
    private static Stack? StackOf(int process) => process == 0 ? null : Stack.ReadAll()
        .FirstOrDefault(stack => stack.ProcessId == process);

    /// <summary>A name in an image that is not followed. Only what the failing layer names is replaced.</summary>
    private static string? Reference(FailureCause cause, TypedVerb verb)
    {
        if (cause.Code == FailureCode.DirectoryNotAllowed)
        {
            string? allow = Option(verb, "allow_path", cause.Place ?? "DIR");
            string which = cause.Place is null ? ", where DIR is the directory the link leads to" : "";
            return allow is null ? null : $"if you trust the image: {allow}{which}";
        }

        bool isData = cause.Kind == ReferenceKind.DataFile || cause.Code == FailureCode.DataFileUnnamed;
        if (!isData)
            return BackingFile(verb, cause.Layer, cause.Place ?? "FILE") is { } file
                ? $"name the file yourself: {file}" : null;

        // Only the top image's data file can be chosen.
        if (cause.Layer > 0 || Option(verb, "data_file", "FILE") is not { } data)
            return null;
        return cause.Code == FailureCode.DataFileUnnamed ? $"say which with {data}" : $"if you trust the image: {data}";
    }

    private static string? Backing(FailureCause cause, TypedVerb verb)
    {
        if (cause.Code == FailureCode.BackingFormatUnstated)
        {
            string store = $"qemu-img rebase -u -b {ShellWord.Of(cause.Name!)} -F FORMAT {ShellWord.Of(cause.File!)}";
            string value = OfLayer(cause.Layer, "FORMAT");
            return Option(verb, "backing_format", value) is { } say
                ? $"if you know whether it is qcow2 or raw: {say}, or store it: {store}"
                : $"if you know whether it is qcow2 or raw, store it: {store}";
        }

        // Names are looked up from where the link is, as QEMU does; the image itself is sound.
        if (LinkTarget(cause.File!) is { } target)
            return $"{Printable.Text(cause.File!)} is a link: name {ShellWord.Of(target)} itself";
        string rebase = $"qemu-img rebase -u -b NEW -F {ShellWord.Of(cause.Name!)} {ShellWord.Of(cause.File!)}";
        return BackingFile(verb, cause.Layer, "NEW") is { } file
            ? $"if it moved: {file}, or for good: {rebase}" : $"if it moved: {rebase}";
    }

    private static string? BackingFile(TypedVerb verb, int layer, string file) =>
        Option(verb, "backing_file", OfLayer(layer, file));

    private static string OfLayer(int layer, string value) => layer == 0
        ? value : string.Create(CultureInfo.InvariantCulture, $"@{layer}={value}");

    /// <summary>The file behind a link in another directory; null for what is no such link.</summary>
    private static string? LinkTarget(string path)
    {
        string full = LinuxPath.Full(path);
        string? target = LinuxPath.Real(full);
        return LinuxPath.LinkTarget(full) is null || target is null
            || string.Equals(Path.GetDirectoryName(target), Path.GetDirectoryName(full), StringComparison.Ordinal)
            ? null : target;
    }

    private static bool HasMountOptions(TypedVerb verb) => verb <= TypedVerb.Run;

    private static string? ReadOnly(TypedVerb verb) =>
        !HasMountOptions(verb) ? null : verb == TypedVerb.Helper ? "-o ro" : "-r";

    /// <summary>An option of a mount as the typed command takes it; null where it takes none.</summary>
    private static string? Option(TypedVerb verb, string name, string? value = null)
    {
        if (!HasMountOptions(verb))
            return null;

        // Without the number it would be said of the top image, which is another thing: both are one word.
        bool isOfLayer = value is ['@', ..];
        if (!isOfLayer && verb is TypedVerb.Mount or TypedVerb.FileSystem)
        {
            string dashed = "--" + name.Replace('_', '-');
            return value is null ? dashed : $"{dashed} {ShellWord.Of(value)}";
        }

        if (value is null)
            return "-o " + name;
        return $"-o {ShellWord.Of($"{name}={OptionList.Escape(value)}")}";
    }
}
