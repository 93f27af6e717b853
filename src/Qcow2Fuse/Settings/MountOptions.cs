// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;

namespace Qcow2Fuse.Settings;

/// <summary>
/// All options of a mount. Command line, <c>-o</c>, settings files, environment and help come from here.
/// </summary>
internal static partial class MountOptions
{
    private const long CacheBytesMax = 1L << 40;
    private const int UnlockSecondsMax = 86400;
    private const long MetadataBytesMax = 1L << 40;
    private const int CacheCleanSecondsMax = 1_000_000;
    private const int CommitSecondsMax = 1_000_000;
    private const int ThreadsMax = 256;
    private const int ReadBytesMin = 4096;
    private const int ReadBytesMax = 1 << 20;

    /// <summary>Every option this program acts on.</summary>
    public static IReadOnlyList<MountOption> All { get; } =
    [
        MountOption.Flag("ro", "Mount read-only; not a byte of any file changes", (s, on) => s.ReadOnly = on),
        MountOption.Flag("rw", "Mount read-write (the default)", (s, on) => s.ReadOnly = on)
            with { Key = "ro", Implied = "false" },
        MountOption.Text("format", "FORMAT", "Format of the image: qcow2 (recognised) or raw", (s, v) => s.Format = v),
        .. FileOptions,
        .. ViewOptions,
        .. CacheOptions,
        .. AccessOptions,
        .. KernelFlags,
        .. SecurityOptions,
        .. InnerOptions,
    ];

    /// <summary>
    /// Words that mount(8), systemd and fstab(5) leave in the list and that mean nothing here. They are accepted and
    /// have no effect.
    /// </summary>
    public static bool IsIgnored(string name) =>
        Ignored.Contains(name) || name.StartsWith("x-", StringComparison.Ordinal)
        || name.StartsWith("X-", StringComparison.Ordinal);

    /// <summary>The option called <paramref name="name"/>, also with dashes for underscores; or null.</summary>
    public static MountOption? Find(string name)
    {
        string plain = name.Replace('-', '_');
        return All.FirstOrDefault(option => string.Equals(option.Name, plain, StringComparison.Ordinal));
    }

    private static IEnumerable<MountOption> FileOptions =>
    [
        MountOption.Text(
            "allow_path", "DIR", "Directory outside the image's own in which its backing files may lie (repeatable)",
            (s, v) => s.AllowPaths = [.. s.AllowPaths, v]) with { Repeatable = true },
        MountOption.Text(
            "backing_file", "[@N=]FILE",
            "Use FILE as backing file instead of the one that the image, or layer N of its chain, names (repeatable)",
            (s, v) => LayerValue.Add(v, s.BackingFiles, top: file => s.BackingFiles[0] = file))
            with { Repeatable = true },
        MountOption.Text(
            "backing_format", "[@N=]FORMAT",
            "Format of a backing file for which the image, or layer N of its chain, names none (repeatable)",
            (s, v) => LayerValue.Add(v, s.BackingFormats, top: format => s.BackingFormat = format))
            with { Repeatable = true },
        MountOption.Flag(
            "no_backing", "Open without the backing file: what the image does not hold reads as zeroes",
            (s, on) => s.NoBacking = on),
        MountOption.Text(
            "data_file", "FILE", "Use FILE as external data file instead of the one the image names",
            (s, v) => s.DataFile = v),
        MountOption.Text(
            "secret", SecretSource.Form, "Where the passphrase of an encrypted image is read from (repeatable)",
            (s, v) => s.Secrets = [.. s.Secrets, SecretSource.Parse(v)]) with { Repeatable = true, IsPrivate = true },
        MountOption.Number(
            "unlock_time", "SECONDS", "Processor time for trying passphrases on an image at most (default 10)",
            1, UnlockSecondsMax, (s, v) => s.UnlockTime = TimeSpan.FromSeconds(v)),
        MountOption.Flag(
            "drop_bitmaps", "Write to an image with bitmaps that cannot be kept valid; they are given up",
            (s, on) => s.Image = s.Image with { AllowLoss = on }),
        MountOption.Flag(
            "force_share", "With ro: look although another process may be writing to the image",
            (s, on) => s.ForceShare = on),
        MountOption.Flag(
            "no_lock", "Take no lock on the image, for file systems without locks", (s, on) => s.NoLock = on),
    ];

    /// <summary>None of them is called loop, offset or sizelimit: mount(8) would take those for itself.</summary>
    private static IEnumerable<MountOption> ViewOptions =>
    [
        MountOption.Flag(
            "partitions", "Show the partitions as NAME.pN.raw too (the default)", (s, on) => s.Partitions = on),
        MountOption.Flag("nopartitions", "Show whole disks only", (s, on) => s.Partitions = on)
            with { Key = "partitions", Implied = "false" },
        MountOption.Number(
            "partition", "N", "Show partition N only, as NAME.raw", 1, int.MaxValue, (s, v) => s.Partition = (int)v),
        MountOption.Size(
            "start", "Show the disk from this byte on only", long.MaxValue, (s, v) => s.WindowStart = v),
        MountOption.Size(
            "length", "Show so many bytes of the disk only", long.MaxValue, (s, v) => s.WindowLength = v),
        MountOption.Choice(
            "sector_size", "For attach and --fs: bytes of a sector of the device (default: what the disk has)",
            [("512", 512), ("4096", 4096)], (s, v) => s.SectorSize = v),
    ];

    private static IEnumerable<MountOption> CacheOptions =>
    [
        MountOption.Choice(
            "cache", "Caching of the image file, as QEMU means it; none and directsync use O_DIRECT",
            [
                ("writeback", CacheMode.Writeback),
                ("none", CacheMode.None),
                ("writethrough", CacheMode.Writethrough),
                ("directsync", CacheMode.DirectSync),
            ],
            (s, v) => s.GivenCache = v),
        MountOption.Flag(
            "prefer_direct", "Without cache=: none where the file system can, as for attach and the systemd units",
            (s, on) => s.PrefersDirect = on),
        MountOption.Choice(
            "discard", "What punching a hole does: give the space back, keep it, or give it back and keep its place",
            [("unmap", DiscardMode.Unmap), ("ignore", DiscardMode.Ignore), ("no-unref", DiscardMode.NoUnref)],
            (s, v) => s.Image = s.Image with { Discard = v }),
        MountOption.Choice(
            "compress", "Compress what is written: as the image says, or only if it says zlib or zstd",
            [
                ("on", CompressedWrites.AsImage),
                ("zlib", CompressedWrites.Zlib),
                ("zstd", CompressedWrites.Zstd),
                ("off", CompressedWrites.Off),
            ],
            (s, v) => s.Image = s.Image with { Compress = v }) with { ValueIsOptional = true, Implied = "on" },
        MountOption.Size(
            "l2_cache_size", "Upper bound of the cache of L2 tables", CacheBytesMax,
            (s, v) => s.Qcow2 = s.Qcow2 with { L2CacheBytesMax = v }),
        MountOption.Size(
            "refcount_cache_size", "Upper bound of the cache of refcount blocks", CacheBytesMax,
            (s, v) => s.Qcow2 = s.Qcow2 with { RefcountCacheBytesMax = v }),
        MountOption.Size(
            "metadata_memory", "Memory for tables that all images share, beside the caches (default 128M)",
            MetadataBytesMax, (s, v) => s.MetadataBytesMax = v),
        MountOption.Number(
            "cache_clean_interval", "SECONDS", "Give up tables unused for so long; 0 keeps them (default 600)",
            0, CacheCleanSecondsMax, (s, v) => s.Qcow2 = s.Qcow2 with { CacheCleanInterval = TimeSpan.FromSeconds(v) }),
        MountOption.Number(
            "commit", "SECONDS", "Write metadata out so long after it changed; 0 leaves that to fsync (default 5)",
            0, CommitSecondsMax, (s, v) => s.Image = s.Image with { CommitInterval = TimeSpan.FromSeconds(v) }),
        MountOption.Flag(
            "resize", "Let truncate(1) on the raw file grow and shrink the disk", (s, on) => s.Resize = on),
        MountOption.Flag("writeback", "Changes nothing", (s, on) => s.Writeback = on) with { IsListed = false },
        MountOption.Choice(
            "transport", "Requests by /dev/fuse (the default), or over io_uring where the kernel offers it",
            [
                ("fuse", FuseTransportChoice.Fuse),
                ("uring", FuseTransportChoice.Uring),
                ("auto", FuseTransportChoice.Auto),
            ],
            (s, v) => s.Transport = v),
        MountOption.Number(
            "threads", "N", "Threads that serve requests (default 16)", 1, ThreadsMax, (s, v) => s.Threads = (int)v),
        MountOption.Number(
            "max_read", "BYTES", "Largest read request", ReadBytesMin, ReadBytesMax,
            (s, v) => s.ReadBytesMax = (int)v),
    ];

    private static IEnumerable<MountOption> AccessOptions =>
    [
        MountOption.Flag(
            "allow_other", "Let other users enter the mount; modes are checked", (s, on) => s.AllowOther = on),
        MountOption.Flag("allow_root", "Let root enter the mount of a user", (s, on) => s.AllowRoot = on),
        MountOption.Flag(
            "default_permissions", "Let the kernel check modes and owners", (s, on) => s.DefaultPermissions = on),
        MountOption.Text(
            "setuid", "USER", "As root: have this user open the image and mount it", (s, v) => s.OtherUser = v),
        MountOption.Number(
            "uid", "ID", "Owner of the files (default: the caller)", 0, uint.MaxValue - 1,
            (s, v) => s.UserId = (uint)v),
        MountOption.Number(
            "gid", "ID", "Group of the files (default: the caller's)", 0, uint.MaxValue - 1,
            (s, v) => s.GroupId = (uint)v),
        MountOption.Text(
            "umask", "OCTAL", "Mode bits to take away; default: all but the owner's",
            (s, v) => s.Umask = ParseOctal(v)),
        MountOption.Flag(
            "auto_unmount", "Let fusermount3 unmount when the daemon is killed", (s, on) => s.AutoUnmount = on),
        MountOption.Flag(
            "restartable", "Under systemd: let the mount outlive a restart or a crash of the daemon",
            (s, on) => s.Restartable = on),
        MountOption.Flag(
            "idle_exit", "Unmount when the last open file is closed, such as by a loop device",
            (s, on) => s.IdleExit = on),
        MountOption.Flag(
            "nofail", "Succeed, without a mount, where the image does not exist", (s, on) => s.NoFail = on),
        MountOption.Flag("mkdir", "Make the mount point if it is missing", (s, on) => s.MakesDirectory = on)
            with { IsOfStart = true },
        MountOption.Flag("nonempty", "Say nothing of files that the mount covers", (s, on) => s.MayCover = on)
            with { IsListed = false, IsOfStart = true },
        MountOption.Text(
            "fsname", "NAME", "Source shown by findmnt and df (default: the image's path)",
            (s, v) => s.SourceName = v),
    ];

    /// <summary>Flags for the kernel, each a setting of its own with the word that takes it back.</summary>
    private static IEnumerable<MountOption> KernelFlags =>
    [
        .. KernelFlag("atime", "noatime"), .. KernelFlag("diratime", "nodiratime"),
        .. KernelFlag("relatime", "norelatime"), .. KernelFlag("strictatime", "nostrictatime"),
        .. KernelFlag("dev", "nodev"), .. KernelFlag("suid", "nosuid"), .. KernelFlag("exec", "noexec"),
        .. KernelFlag("sync", "async"), .. KernelFlag("dirsync", off: null),
    ];

    private static MountOption[] KernelFlag(string on, string? off)
    {
        MountOption option = MountOption.Flag(on, "As in mount(8)", (settings, isOn) =>
        {
            if ((isOn ? on : off) is { } word)
                settings.KernelFlags.Add(word);
        }) with { IsListed = false };
        return off is null ? [option] : [option, option with { Name = off, Implied = "false" }];
    }

    private static HashSet<string> Ignored { get; } = new(StringComparer.Ordinal)
    {
        "defaults", "auto", "noauto", "_netdev", "user", "nouser", "users", "owner", "noowner", "group",
        "nogroup", "comment", "kernel_cache", "auto_cache", "direct_io", "subtype", "silent", "loud",
        "mand", "nomand", "lazytime", "nolazytime", "iversion", "noiversion", "loop",

        // The kernel's own, which mount(8) takes from its list of mounts and hands over with "remount".
        "fd", "rootmode", "user_id", "group_id", "blksize",
    };

    private static uint ParseOctal(string text)
    {
        bool valid = text.Length is > 0 and <= 4 && text.All(static digit => digit is >= '0' and <= '7');
        return valid
            ? text.Aggregate(0u, static (value, digit) => (value * 8) + (uint)(digit - '0'))
            : throw new FormatException("must be an octal number of 0 to 7777, such as 022");
    }
}
