// SPDX-License-Identifier: MIT
using System.Security.Cryptography;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Qcow2.Core;

namespace Qcow2Fuse.Settings;

/// <summary>What a mount is asked to do: the sum of settings files, environment and command line.</summary>
internal sealed class MountSettings
{
    private MemoryBudget? _memory;

    /// <summary>The image, as typed; null where nothing names one.</summary>
    public string? Source { get; set; }

    /// <summary>The mount point, as typed; null where nothing names one.</summary>
    public string? Directory { get; set; }

    /// <summary>Format of the image; null to take the one whose magic it carries.</summary>
    public string? Format { get; set; }

    /// <summary>Nothing is written.</summary>
    public bool ReadOnly { get; set; }

    /// <summary>Directories besides the image's own in which backing files may lie.</summary>
    public IReadOnlyList<string> AllowPaths { get; set; } = [];

    /// <summary>External data file to use; null for the one the image names.</summary>
    public string? DataFile { get; set; }

    /// <summary>Backing files to use instead of those that images name, by the number of the layer.</summary>
    public Dictionary<int, string> BackingFiles { get; } = [];

    /// <summary>Format of a backing file for which the image names none.</summary>
    public string? BackingFormat { get; set; }

    /// <summary>The same for the backing files of single layers, by their numbers.</summary>
    public Dictionary<int, string> BackingFormats { get; } = [];

    /// <summary>Open without the backing file.</summary>
    public bool NoBacking { get; set; }

    /// <summary>Where passphrases of encrypted images come from.</summary>
    public IReadOnlyList<SecretSource> Secrets { get; set; } = [];

    /// <summary>Caching of the image file as the user wants it; null where he has not said.</summary>
    public CacheMode? GivenCache { get; set; }

    /// <summary>Without <see cref="GivenCache"/>: past the page cache, for files whose file system can.</summary>
    public bool PrefersDirect { get; set; }

    /// <summary>Caching of the image file.</summary>
    public CacheMode Cache => GivenCache ?? (PrefersDirect ? CacheMode.None : CacheMode.Writeback);

    /// <summary>Whether the image file is read and written past the page cache.</summary>
    public bool IsDirect => Cache is CacheMode.None or CacheMode.DirectSync;

    /// <summary>
    /// Whether memory is found at the start, not when a request needs it. With O_DIRECT serving then needs little more,
    /// and is less likely to wait for some where there is none.
    /// </summary>
    public bool PopulatesMemory => IsDirect;

    /// <summary>How images are read and written.</summary>
    public ImageOptions Image { get; set; } = new() { CommitInterval = TimeSpan.FromSeconds(5) };

    /// <summary>The same for what only qcow2 images have.</summary>
    public Qcow2Options Qcow2 { get; set; } = new();

    /// <summary>Take no image lock.</summary>
    public bool NoLock { get; set; }

    /// <summary>Read although somebody else may write.</summary>
    public bool ForceShare { get; set; }

    /// <summary>The size of the raw file can be changed, and with it the disk's.</summary>
    public bool Resize { get; set; }

    /// <summary>The partitions of each disk are shown as files too.</summary>
    public bool Partitions { get; set; } = true;

    /// <summary>Show this partition only; null for the whole disk.</summary>
    public int? Partition { get; set; }

    /// <summary>Show the disk from this byte on only; null for all of it.</summary>
    public long? WindowStart { get; set; }

    /// <summary>Show so many bytes only; null for all up to the end.</summary>
    public long? WindowLength { get; set; }

    /// <summary>Bytes of a sector of the loop device over the disk; 0 for what its partition table says.</summary>
    public int SectorSize { get; set; }

    /// <summary>Other users may enter the mount.</summary>
    public bool AllowOther { get; set; }

    /// <summary>The owner and root may enter the mount.</summary>
    public bool AllowRoot { get; set; }

    /// <summary>The kernel checks modes and owners.</summary>
    public bool DefaultPermissions { get; set; }

    /// <summary>Who mounts, if root has somebody else do it; null for the caller.</summary>
    public string? OtherUser { get; set; }

    /// <summary>Owner of the files; null for the caller.</summary>
    public uint? UserId { get; set; }

    /// <summary>Group of the files; null for the caller's.</summary>
    public uint? GroupId { get; set; }

    /// <summary>Mode bits to take away from 0777 and 0666; null for owner only.</summary>
    public uint? Umask { get; set; }

    /// <summary>Name shown as the source of the mount; null for the image's absolute path.</summary>
    public string? SourceName { get; set; }

    /// <summary>Largest read request in bytes; 0 for the default.</summary>
    public int ReadBytesMax { get; set; }

    /// <summary>Threads that serve requests; 0 for the default.</summary>
    public int Threads { get; set; }

    /// <summary>The way of requests from the kernel.</summary>
    public FuseTransportChoice Transport { get; set; }

    /// <summary>
    /// Earlier versions let the kernel collect writes for it. The word is accepted and changes nothing.
    /// </summary>
    public bool Writeback { get; set; }

    /// <summary>The mount goes when the daemon dies.</summary>
    public bool AutoUnmount { get; set; }

    /// <summary>Nothing is said of what the mount covers.</summary>
    public bool MayCover { get; set; }

    /// <summary>Nothing is mounted, and nothing said, where the image does not exist.</summary>
    public bool NoFail { get; set; }

    /// <summary>The mount point is made if it is missing.</summary>
    public bool MakesDirectory { get; set; }

    /// <summary>The mount outlives the daemon, if the service manager keeps what the next one needs.</summary>
    public bool Restartable { get; set; }

    /// <summary>All settings that were given, as NAME=VALUE, whatever gave them.</summary>
    public IReadOnlyList<string> Given { get; set; } = [];

    /// <summary>
    /// A hash of <see cref="Given"/>. Made when it is asked for: the first hash loads libcrypto, which no other mount
    /// needs.
    /// </summary>
    public string Fingerprint
    {
        get
        {
            // In the order of their names, which another version of the program has too.
            string all = string.Join('\0', Given.Order(StringComparer.Ordinal));
            return Convert.ToHexString(SHA256.HashData(ByteText.Encode(all)));
        }
    }

    /// <summary>Unmount when the last open file has been closed.</summary>
    public bool IdleExit { get; set; }

    /// <summary>Options of the file system inside the image, in the order and form of mount(8).</summary>
    public List<string> FileSystemOptions { get; } = [];

    /// <summary>Labels of SELinux for the mount: <c>context</c> and such, with their values.</summary>
    public List<(string Name, string Label)> SecurityOptions { get; } = [];

    /// <summary>Change the flags of what is mounted instead of mounting.</summary>
    public bool Remounts { get; set; }

    /// <summary>Flags of mount(8) that the kernel takes as they are: <c>noatime</c>, <c>sync</c> and such.</summary>
    public List<string> KernelFlags { get; } = [];

    /// <summary>Bytes of memory for the tables of all images together.</summary>
    public long MetadataBytesMax { get; set; } = 128L << 20;

    /// <summary>Processor time for trying passphrases on an image.</summary>
    public TimeSpan UnlockTime { get; set; } = TimeSpan.FromSeconds(10);

    /// <summary>The memory that all images of the mount share.</summary>
    public MemoryBudget Memory => LazyInitializer.EnsureInitialized(
        ref _memory,
        () => new MemoryBudget(MetadataBytesMax));

    /// <summary>What the opener needs of it.</summary>
    public ImageOpenOptions ToOpenOptions(string path)
    {
        ImageOptions image = Image with
        {
            Memory = Memory,
            Formats = [Qcow2 with { PopulateCaches = PopulatesMemory }],
        };
        return new ImageOpenOptions(image)
        {
            Path = path,
            Format = Format,
            ReadOnly = ReadOnly,
            Cache = Cache,
            AllowPaths = AllowPaths,
            BackingFiles = BackingFiles,
            BackingFormats = BackingFormats,
            NoBacking = NoBacking,
            BackingFormat = BackingFormat,
            DataFile = DataFile,
            NoLock = NoLock,
            ForceShare = ForceShare,
        };
    }
}
