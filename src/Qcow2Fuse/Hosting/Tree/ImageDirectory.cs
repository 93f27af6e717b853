// SPDX-License-Identifier: MIT
using System.Runtime.ExceptionServices;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>
/// The images of a directory, which appear and vanish as they do on disk. Each is opened when it is used first and
/// closed when it has been idle for some seconds; one that cannot be opened leaves the others alone.
/// </summary>
internal sealed class ImageDirectory : ImageSet
{
    /// <summary>What is kept for an image beside its name, as measured.</summary>
    private const int BytesPerImage = 1100;

    /// <summary>One part in so many of the time goes to looks that no change was the cause of.</summary>
    private const int LookShare = 20;

    /// <summary>Names that changed within a second are found by the next look; others at once.</summary>
    private static readonly TimeSpan LookPeriod = TimeSpan.FromSeconds(1);

    private readonly MountSettings _settings;
    private readonly ImageFolder _folder;
    private readonly FileStorage _files;
    private readonly ILogger _logger;

    /// <summary>Held by who looks at the whole directory; before <see cref="_lock"/>, which nobody holds for long.
    /// </summary>
    private readonly Lock _lookLock = new();
    private readonly Lock _lock = new();
    private readonly Dictionary<string, ImageNodes> _nodes = new(StringComparer.Ordinal);
    private readonly Dictionary<string, ImageNodes> _byName = new(StringComparer.Ordinal);
    private readonly List<(HostedImage Image, long Bytes)> _leaving = [];
    private readonly PeriodicWork _idleWork;
    private TreeContext? _context;
    private DirectoryScan? _scan;
    private ImageNodes[]? _current = [];
    private long _imageBytes;
    private bool _isFull;
    private long _directoryTicks;
    private long _lastLook;
    private long _lookPeriod;
    private long _changePeriod;

    public ImageDirectory(MountSettings settings, string path, ILogger logger)
    {
        if (settings.Partition is not null || settings.WindowStart is not null || settings.WindowLength is not null)
        {
            throw CommandException.Usage(
                $"{Printable.Text(path)}: is a directory; partition, start and length are for one image");
        }

        _settings = settings;
        _logger = logger;
        _folder = ImageFolder.Open(path, IsShared(settings), settings.AllowPaths);
        try
        {
            _folder.RequireReadable();
        }
        catch
        {
            _folder.Dispose();
            throw;
        }

        _files = new FileStorage(keeper: null, _folder);
        Path = path;
        _idleWork = new PeriodicWork(LookPeriod, CloseIdle, failure => HostLog.WorkFailed(_logger, Path, failure));
    }

    /// <inheritdoc/>
    public override string Path { get; }

    /// <inheritdoc/>
    public override bool IsReadOnly => _settings.ReadOnly;

    /// <inheritdoc/>
    public override string Description => $"the images of {Path}";

    /// <summary>Memory for what is kept of all images, in bytes; those beyond it are refused.</summary>
    public long ImageBytesMax { get; init; } = 64 << 20;

    /// <summary>Memory for the names of all files, in bytes.</summary>
    public long NameBytesMax { get; init; } = 12 << 20;

    /// <summary>A look that is no longer may be made after each change of the directory.</summary>
    public TimeSpan BriefLook { get; init; } = TimeSpan.FromMilliseconds(20);

    /// <summary>After longer ones, so many times as long is none made because of a change.</summary>
    public int ChangeShare { get; init; } = 4;

    /// <inheritdoc/>
    public override bool IsDirectory => true;

    /// <inheritdoc/>
    public override bool LooksLong => Volatile.Read(ref _changePeriod) > 0;

    private DirectoryScan Scan => LazyInitializer.EnsureInitialized(
        ref _scan, () => new DirectoryScan(_folder, _logger) { NameBytesMax = NameBytesMax });

    /// <inheritdoc/>
    public override IReadOnlyList<ImageNodes> Current()
    {
        LookIfDue();
        lock (_lock)
            return Sorted();
    }

    /// <inheritdoc/>
    protected override ImageNodes? Behind(string? name)
    {
        if (name is null)
            LookIfDue();
        lock (_lock)
        {
            ImageNodes[] all = Sorted();
            int low = 0;
            int high = name is null ? 0 : all.Length;
            while (low < high)
            {
                int middle = (low + high) / 2;
                if (string.CompareOrdinal(all[middle].Name, name) > 0)
                    high = middle;
                else
                    low = middle + 1;
            }

            return low < all.Length ? all[low] : null;
        }
    }

    /// <inheritdoc/>
    /// <remarks>
    /// A file is called as its image, and what follows begins with a dot: the image is one of the names that end before
    /// a dot of it.
    /// </remarks>
    public override IEnumerable<ImageNodes> WithFile(string name)
    {
        for (int dot = name.IndexOf('.', StringComparison.Ordinal); dot >= 0;
             dot = name.IndexOf('.', dot + 1))
        {
            if (WithName(name[..dot]) is { } image)
                yield return image;
        }
    }

    /// <inheritdoc/>
    /// <remarks>Where the directory has changed, the one file is looked for, whenever all of them are the next time.
    /// </remarks>
    public override ImageNodes? WithName(string name)
    {
        bool isSame = !HasChanged(out _);
        ImageNodes? known = Known(name);
        if (isSame || _context is null || name.Length == 0)
            return known;
        if (known is not null)
        {
            if (Scan.IsImage(known.FileName))
                return known;
            Forget(known.FileName);
        }

        foreach (string ending in RawFileName.Endings)
        {
            string file = name + ending;
            if (!Scan.IsImage(file))
                continue;

            // Whoever has the name may have to leave it to this one.
            string shown = RawFileName.In(file, Scan.IsImage);
            string? other = Known(shown) is { } holder ? RawFileName.In(holder.FileName, Scan.IsImage) : null;
            lock (_lock)
            {
                if (other is not null && !string.Equals(other, shown, StringComparison.Ordinal)
                    && _byName.TryGetValue(shown, out ImageNodes? nodes))
                {
                    Rename([(nodes, other)]);
                }

                if (!TryAdd(_context, file, shown))
                {
                    throw new BlockException(
                        BlockErrorKind.NoMemory,
                        $"{Printable.Text(System.IO.Path.Combine(Path, file))}: is not shown: the directory has more "
                        + $"images than {ImageBytesMax >> 20} MiB of memory are for");
                }
            }

            if (Known(name) is { } found)
                return found;
        }

        LookIfDue();
        return Known(name);
    }

    /// <inheritdoc/>
    public override void CreateNodes(TreeContext context, bool rootIsFile)
    {
        if (rootIsFile)
            throw DirectoryPlace.OnFile(Path);

        _ = RootDirectory.Create(context, this);
        _lastLook = Environment.TickCount64 - (long)LookPeriod.TotalMilliseconds;
        _context = context;
    }

    /// <inheritdoc/>
    public override void Flush() => ForAll(static image => image.Flush());

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _idleWork.Dispose();
        try
        {
            ForAll(static image => image.Dispose());
        }
        finally
        {
            _folder.Dispose();
        }
    }

    /// <summary>Does something with each image, also after it failed for one; then says what failed first.</summary>
    private void ForAll(Action<HostedImage> work)
    {
        BlockException? first = null;
        foreach (HostedImage image in AllImages())
        {
            try
            {
                work(image);
            }
            catch (BlockException exception)
            {
                HostLog.LastFlushFailed(_logger, image.Path, exception.Message);
                first ??= exception;
            }
        }

        if (first is not null)
            ExceptionDispatchInfo.Throw(first);
    }

    /// <summary>Whether others than the user of this process are to enter the mount, or to own what it shows.</summary>
    private static bool IsShared(MountSettings settings) =>
        settings.AllowOther || settings.AllowRoot
        || (settings.UserId is { } user && user != MountCalls.EffectiveUser());

    /// <summary>All images by name; with the lock held.</summary>
    private ImageNodes[] Sorted() =>
        _current ??= [.. _nodes.Values.OrderBy(static nodes => nodes.Name, StringComparer.Ordinal)];

    private ImageNodes? Known(string name)
    {
        lock (_lock)
            return _byName.GetValueOrDefault(name);
    }

    /// <summary>Whether what is known of the directory may be out of date.</summary>
    private bool HasChanged(out long ticks)
    {
        ticks = _folder.ModifiedTicks;
        return ticks != Volatile.Read(ref _directoryTicks) || SinceLook() >= Volatile.Read(ref _lookPeriod);
    }

    private long SinceLook() => Environment.TickCount64 - Volatile.Read(ref _lastLook);

    /// <summary>
    /// Looks at the whole directory where that is due: after each change of it, but where that takes long, not for most
    /// of the time, whoever changes it. Whoever waits for a look that somebody else makes has waited enough then.
    /// </summary>
    private void LookIfDue()
    {
        if (_context is null || !IsDue(out _))
            return;
        lock (_lookLock)
        {
            if (!IsDue(out long ticks))
                return;
            long started = Environment.TickCount64;
            Look(_context);
            long now = Environment.TickCount64;
            Volatile.Write(ref _lookPeriod, Math.Max((long)LookPeriod.TotalMilliseconds, LookShare * (now - started)));
            Volatile.Write(
                ref _changePeriod,
                now - started <= BriefLook.TotalMilliseconds ? 0 : ChangeShare * Math.Max(now - started, 1));
            Volatile.Write(ref _lastLook, now);
            Volatile.Write(ref _directoryTicks, ticks);
        }
    }

    private bool IsDue(out long ticks) => HasChanged(out ticks) && SinceLook() >= Volatile.Read(ref _changePeriod);

    private HostedImage[] AllImages()
    {
        lock (_lock)
            return [.. Shown().Concat(Leaving())];
    }

    private HostedImage[] OpenImages()
    {
        lock (_lock)
        {
            return
            [
                .. Shown().Concat(Leaving()).Where(static image => image.Current is not null),
            ];
        }
    }

    private IEnumerable<HostedImage> Shown() => _nodes.Values.Select(static nodes => nodes.Image);

    private IEnumerable<HostedImage> Leaving() => _leaving.Select(static leaving => leaving.Image);

    private void CloseIdle()
    {
        // What one image fails with keeps no other open.
        foreach (HostedImage image in OpenImages())
            Guarded.Run(image.CloseIdle, failure => HostLog.WorkFailed(_logger, image.Path, failure));
        DropClosed();
    }

    /// <summary>What is kept of images that have gone goes when their last user has.</summary>
    private void DropClosed()
    {
        lock (_lock)
        {
            foreach ((HostedImage image, long bytes) in _leaving)
                _imageBytes -= image.IsClosed ? bytes : 0;
            _leaving.RemoveAll(static leaving => leaving.Image.IsClosed);
        }
    }

    /// <summary>Compares the directory with what is shown.</summary>
    private void Look(TreeContext context)
    {
        if (Scan.Images(out bool isWhole) is not { } files)
            return;
        HashSet<string> found = new(files, StringComparer.Ordinal);
        string[] missing;
        lock (_lock)
            missing = [.. _nodes.Keys.Where(known => !found.Contains(known))];

        // One that was not listed may be beyond what was looked at, or have come since.
        missing = [.. missing.Where(file => !Scan.IsImage(file))];
        foreach (string gone in missing)
            Forget(gone);
        Func<string, bool> isImage = isWhole ? found.Contains : Scan.IsImage;
        ImageNodes[] known;
        lock (_lock)
        {
            files.RemoveAll(_nodes.ContainsKey);
            known = files.Count > 0 || missing.Length > 0 ? [.. _nodes.Values] : [];
        }

        // An image that has come or gone may change the names of others.
        (ImageNodes, string)[] renamed =
        [
            .. known.Select(nodes => (Nodes: nodes, Name: RawFileName.In(nodes.FileName, isImage)))
                .Where(static pair => !string.Equals(pair.Nodes.Name, pair.Name, StringComparison.Ordinal)),
        ];
        lock (_lock)
            Rename(renamed);
        foreach (string file in files.Order(StringComparer.Ordinal))
        {
            string name = RawFileName.In(file, isImage);
            lock (_lock)
                isWhole &= TryAdd(context, file, name);
        }

        if (!isWhole && !_isFull)
            HostLog.TooManyFiles(_logger, Path);
        _isFull = !isWhole;
    }

    /// <summary>Shows an image; with the lock held. False where there is no memory for it.</summary>
    private bool TryAdd(TreeContext context, string file, string name)
    {
        if (_nodes.ContainsKey(file))
            return true;
        if (_imageBytes + BytesOf(file) > ImageBytesMax || !ManagedRoom.IsLeft)
            return false;
        HostedImage image = new(_settings, _folder, file, _files, _logger);
        ImageNodes nodes = new(context, image, Free(name) + RawFileName.Ending, DiskWindow.Whole);
        _nodes.Add(file, nodes);
        _byName.Add(nodes.Name, nodes);
        _imageBytes += BytesOf(file);
        _current = null;
        return true;
    }

    /// <summary>The name of an image has gone.</summary>
    private void Forget(string file)
    {
        ImageNodes? nodes;
        lock (_lock)
        {
            if (!_nodes.Remove(file, out nodes))
                return;
            _byName.Remove(nodes.Name);
            _current = null;
            if (nodes.Image.Retire())
                _imageBytes -= BytesOf(file);
            else
                _leaving.Add((nodes.Image, BytesOf(file)));
        }

        nodes.Retire();
    }

    /// <summary>Gives images other names; with the lock held. All leave theirs before one takes another's.</summary>
    private void Rename(IReadOnlyList<(ImageNodes Nodes, string Name)> changes)
    {
        List<(ImageNodes Nodes, string Name)> shown =
            [.. changes.Where(change => _nodes.GetValueOrDefault(change.Nodes.FileName) == change.Nodes)];
        foreach ((ImageNodes nodes, _) in shown)
            _byName.Remove(nodes.Name);
        foreach ((ImageNodes nodes, string name) in shown)
        {
            nodes.Rename(Free(name) + RawFileName.Ending);
            _byName.Add(nodes.Name, nodes);
            _current = null;
        }
    }

    /// <summary>
    /// The name, or one like it where it is taken still: by an image that has just gone, or between two that differ
    /// in the case of their extensions.
    /// </summary>
    private string Free(string name)
    {
        while (_byName.ContainsKey(name))
            name += ".";
        return name;
    }

    /// <summary>The name of the file is in the paths and names of the image too.</summary>
    private static long BytesOf(string file) => BytesPerImage + (3L * sizeof(char) * file.Length);
}
