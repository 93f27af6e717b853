// SPDX-License-Identifier: MIT
using System.Globalization;
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block;
using Qcow2Fuse.Commands;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// The images of a directory, which appear and vanish as they do on disk. Each is opened when it is used first and
/// closed when it has been idle for some seconds; one that cannot be opened leaves the others alone.
/// </summary>
internal sealed class ImageDirectory : ImageSet
{
    private const string UsualEnding = ".qcow2";
    private const int LookShare = 20;
    private const int ProbeLength = 512;

    /// <summary>Names that changed within a second are found by the next look; others at once.</summary>
    private static readonly TimeSpan LookPeriod = TimeSpan.FromSeconds(1);

    private readonly MountSettings _settings;
    private readonly ImageFolder _folder;
    private readonly FileStorage _files;
    private readonly ILogger _logger;
    private readonly Lock _lock = new();
    private readonly Dictionary<string, ImageNodes> _nodes = new(StringComparer.Ordinal);
    private readonly Dictionary<string, (FileStamp Stamp, bool IsImage)> _probed = new(StringComparer.Ordinal);
    private readonly List<HostedImage> _leaving = [];
    private readonly Timer _idleTimer;
    private readonly Lock _idleLock = new();
    private bool _isDisposed;
    private bool _hasComplained;
    private TreeContext? _context;
    private ImageNodes[] _current = [];
    private Dictionary<string, ImageNodes> _byName = new(StringComparer.Ordinal);
    private long _directoryTicks;
    private long _lastLook;
    private long _lookMilliseconds;

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
        _files = new FileStorage(keeper: null, _folder);
        Path = path;
        _idleTimer = new Timer(CloseIdle, state: null, LookPeriod, LookPeriod);
    }

    /// <inheritdoc/>
    public override string Path { get; }

    /// <summary>
    /// Refuses a mount point that covers the directory: the images could not be reached any more, and the process
    /// that serves a mount must not enter it.
    /// </summary>
    /// <exception cref="CommandException">The mount point is the directory itself or lies above it.</exception>
    public static void RefuseUnder(string mountPoint, string source)
    {
        string covering = RealPath(mountPoint);
        string covered = RealPath(source);
        if (string.Equals(covering, covered, StringComparison.Ordinal)
            || covered.StartsWith(covering.TrimEnd('/') + "/", StringComparison.Ordinal))
        {
            throw new CommandException(
                ExitCode.MountFailed,
                $"{Printable.Text(source)}: would be covered by the mount",
                "choose a directory outside it as mount point");
        }
    }

    /// <inheritdoc/>
    public override bool IsReadOnly => _settings.ReadOnly;

    /// <inheritdoc/>
    public override string Description => $"the images of {Path}";

    /// <inheritdoc/>
    public override IReadOnlyList<ImageNodes> Current()
    {
        lock (_lock)
        {
            long now = Environment.TickCount64;
            long ticks = _folder.ModifiedTicks;
            bool isDue = now - _lastLook >= _lookMilliseconds;
            if (_context is not null && (isDue || ticks != _directoryTicks))
            {
                _lastLook = now;
                _directoryTicks = ticks;
                Look(_context);

                // Where there are many files, most of the time is left to those who look for one of them.
                _lookMilliseconds = Math.Max(
                    (long)LookPeriod.TotalMilliseconds, LookShare * (Environment.TickCount64 - now));
            }

            return _current;
        }
    }

    /// <inheritdoc/>
    public override bool IsDirectory => true;

    /// <inheritdoc/>
    /// <remarks>
    /// A file is called as its image, and what follows begins with a dot: the image is one of the names that end before
    /// a dot of it.
    /// </remarks>
    public override IEnumerable<ImageNodes> WithFile(string name)
    {
        Dictionary<string, ImageNodes> images = Names();
        for (int dot = name.IndexOf('.', StringComparison.Ordinal); dot >= 0;
             dot = name.IndexOf('.', dot + 1))
        {
            if (images.TryGetValue(name[..dot], out ImageNodes? image))
                yield return image;
        }
    }

    /// <inheritdoc/>
    public override ImageNodes? WithName(string name) => Names().GetValueOrDefault(name);

    /// <inheritdoc/>
    public override void CreateNodes(TreeContext context, bool rootIsFile)
    {
        if (rootIsFile)
        {
            throw new CommandException(
                ExitCode.MountFailed,
                $"{Printable.Text(Path)}: is a directory and cannot be mounted on a file");
        }

        _ = RootDirectory.Create(context, this);
        _lastLook = Environment.TickCount64 - (long)LookPeriod.TotalMilliseconds;
        _context = context;
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        foreach (HostedImage image in AllImages())
            image.Flush();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _idleTimer.Dispose();
        lock (_idleLock)
            _isDisposed = true;
        foreach (HostedImage image in AllImages())
            image.Dispose();
        _folder.Dispose();
    }

    /// <summary>Whether others than the user of this process are to enter the mount, or to own what it shows.</summary>
    private static bool IsShared(MountSettings settings) =>
        settings.AllowOther || settings.AllowRoot
        || (settings.UserId is { } user && user != MountCalls.EffectiveUser());

    /// <summary>The path without symbolic links; as it is where it cannot be opened.</summary>
    private static string RealPath(string path)
    {
        int descriptor = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (descriptor < 0)
            return path;
        try
        {
            string link = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{descriptor}");
            return File.ResolveLinkTarget(link, returnFinalTarget: false)?.FullName ?? path;
        }
        finally
        {
            _ = LinuxFile.Close(descriptor);
        }
    }

    private Dictionary<string, ImageNodes> Names()
    {
        lock (_lock)
        {
            _ = Current();
            return _byName;
        }
    }

    private HostedImage[] AllImages()
    {
        lock (_lock)
            return [.. _nodes.Values.Select(static nodes => nodes.Image), .. _leaving];
    }

    private HostedImage[] OpenImages()
    {
        lock (_lock)
        {
            return
            [
                .. _nodes.Values.Select(static nodes => nodes.Image).Concat(_leaving)
                    .Where(static image => image.Current is not null),
            ];
        }
    }

    private void CloseIdle(object? state)
    {
        lock (_idleLock)
        {
            if (_isDisposed)
                return;
            foreach (HostedImage image in OpenImages())
                image.CloseIdle();
        }

        lock (_lock)
            _leaving.RemoveAll(static image => image.Current is null);
    }

    /// <summary>Compares the directory with what is shown.</summary>
    private void Look(TreeContext context)
    {
        List<string> files = ImageFiles();
        HashSet<string> found = new(files, StringComparer.Ordinal);
        foreach (string gone in _nodes.Keys.Where(known => !found.Contains(known)).ToArray())
        {
            _nodes.Remove(gone, out ImageNodes? nodes);
            nodes!.Retire();
            if (nodes.Image.Current is not null)
                _leaving.Add(nodes.Image);
        }

        // Two images may want one name: the one that ends in .qcow2 has it.
        files.RemoveAll(_nodes.ContainsKey);
        if (files.Count == 0 && _current.Length == _nodes.Count)
            return;
        HashSet<string> taken = new(_nodes.Values.Select(static nodes => nodes.RawName), StringComparer.Ordinal);
        foreach (string file in files.OrderBy(static file => !HasUsualEnding(file))
            .ThenBy(static file => file, StringComparer.Ordinal))
        {
            string name = RawFileName.For(file);
            if (!taken.Add(name))
            {
                name = file + ".raw";
                if (!taken.Add(name))
                    continue;
            }

            HostedImage image = new(_settings, _folder, file, _files, _logger);
            _nodes.Add(file, new ImageNodes(context, image, name, DiskWindow.Whole));
        }

        _current = [.. _nodes.Values.OrderBy(static nodes => nodes.RawName, StringComparer.Ordinal)];
        _byName = _current.ToDictionary(static nodes => nodes.Name, StringComparer.Ordinal);
    }

    /// <summary>
    /// The names of files that are images by their name or by their first bytes. A directory that cannot be read has
    /// none.
    /// </summary>
    private List<string> ImageFiles()
    {
        try
        {
            List<string> names = _folder.Names();
            if (_probed.Count > names.Count)
            {
                foreach (string gone in _probed.Keys.Except(names, StringComparer.Ordinal).ToArray())
                    _ = _probed.Remove(gone);
            }

            names.RemoveAll(name => !IsImage(name));
            return names;
        }
        catch (BlockException exception)
        {
            HostLog.DirectoryFailed(_logger, Path, exception.Message);
            return [];
        }
    }

    private bool IsImage(string name)
    {
        FileStamp stamp = FileStamp.Of(_folder.Look(name));
        if (HasUsualEnding(name))
        {
            if (stamp.Length < 0)
                Complain(name);
            return stamp.Length >= 0;
        }

        if (_probed.TryGetValue(name, out (FileStamp Stamp, bool IsImage) known) && known.Stamp == stamp)
            return known.IsImage;
        bool isImage = stamp.Length >= 0 && IsRecognised(name);
        _probed[name] = (stamp, isImage);
        return isImage;
    }

    /// <summary>Says once why a file is not shown: others may make as many as they like.</summary>
    private void Complain(string name)
    {
        if (_hasComplained || _folder.RefusalOf(name) is not { } reason)
            return;
        _hasComplained = true;
        HostLog.NotAnImage(_logger, reason);
    }

    private static bool HasUsualEnding(string name) =>
        name.EndsWith(UsualEnding, StringComparison.OrdinalIgnoreCase);

    /// <summary>Whether the first bytes are of a known format.</summary>
    private bool IsRecognised(string name)
    {
        try
        {
            using FileDevice file = _folder.Open(name);
            byte[] head = new byte[(int)Math.Min(ProbeLength, file.Length)];
            file.Read(0, head);
            return ServedImage.Formats.Any(format => format.Probe(head));
        }
        catch (BlockException)
        {
            // It has gone, or is nothing for this user: no image as far as can be seen.
            return false;
        }
    }
}
