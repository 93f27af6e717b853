// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Partitions;
using Qcow2Fuse.Hosting.Restart;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Images.Reports;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// One image of a mount with what its files have in common: the open disk, its partition table, its counters and the
/// files that show parts of it.
/// </summary>
internal sealed class HostedImage : DiskSource, IDisposable
{
    private static readonly TimeSpan IdlePeriod = TimeSpan.FromSeconds(5);

    private readonly MountSettings _settings;
    private readonly ILogger _logger;
    private readonly Lock _stateLock = new();
    private readonly bool _staysOpen;
    private readonly ImagePlace _place;
    private readonly FileStorage? _files;
    private readonly NewerRanges? _newer;
    private ServedImage? _served;
    private ImageFacts _facts;
    private FileStamp _factsStamp;
    private FileStamp _complainedOf;
    private Lock? _changeLock;
    private SharedWrites? _writes;
    private DiskTable? _table;
    private IDiskView[] _views = [];
    private long _modifiedTicks;
    private int _openings;
    private int _resizeWasRefused;
    private volatile bool _isRetired;
    private bool _isEnding;

    /// <summary>An image of a directory, opened when it is used.</summary>
    /// <param name="settings">The settings of the mount.</param>
    /// <param name="folder">The directory.</param>
    /// <param name="name">Its name there.</param>
    /// <param name="files">Opens files by the rules of the directory.</param>
    /// <param name="logger">The daemon's log.</param>
    public HostedImage(MountSettings settings, ImageFolder folder, string name, FileStorage files, ILogger logger)
        : this(settings, new FolderPlace(folder, name), logger) =>
        _files = files;

    /// <summary>An image that is open already and stays so; it belongs to the hosted image now.</summary>
    /// <param name="settings">The settings of the mount.</param>
    /// <param name="served">The image.</param>
    /// <param name="newer">What was changed through its files, where that outlives the process; or null.</param>
    /// <param name="logger">The daemon's log.</param>
    public HostedImage(MountSettings settings, ServedImage served, NewerRanges? newer, ILogger logger)
        : this(settings, new FilePlace(served.Anchor(), served.ImagePath), logger)
    {
        _newer = newer;
        _staysOpen = true;
        _served = served;
        _ = Acquire();
    }

    private HostedImage(MountSettings settings, ImagePlace place, ILogger logger)
    {
        _settings = settings;
        _logger = logger;
        _place = place;
        _modifiedTicks = FileStamp.Of(place).ModifiedTicks;
    }

    /// <summary>Raised when the image is being closed: nobody uses it any more.</summary>
    public event Action? Closed;

    /// <summary>Absolute path of the image, as it was when it was found.</summary>
    public string Path => _place.Path;

    /// <summary>Which file it is; null where there is none now.</summary>
    /// <exception cref="BlockException">The system does not tell.</exception>
    public FileIdentity? Identity =>
        _place.Look() is { } status ? FileIdentity.Of(status) : null;

    /// <summary>Held by what changes the image as a whole, one at a time.</summary>
    public Lock ChangeLock => LazyInitializer.EnsureInitialized(ref _changeLock);

    /// <summary>The order of changes through its files.</summary>
    public SharedWrites Writes => Volatile.Read(ref _writes) ?? MakeWrites();

    /// <summary>Whether more than one file shows its disk.</summary>
    public bool HasSeveralFiles => Volatile.Read(ref _views).Length > 1;

    /// <summary>What its requests add up to.</summary>
    public ImageCounters Counters { get; } = new();

    /// <summary>The image with its chain while it is open, or null.</summary>
    public ServedImage? Served => Volatile.Read(ref _served);

    /// <summary>Whether files of it may be closed and opened, and be changed by others meanwhile.</summary>
    public bool IsVolatile => !_staysOpen;

    /// <summary>How often it was opened; what the kernel has cached under another number may be out of date.</summary>
    public int Openings => Volatile.Read(ref _openings);

    /// <inheritdoc/>
    public override long Length => Current?.Length ?? KnownFacts().VirtualSize;

    /// <inheritdoc/>
    public override long AllocatedBytes =>
        Look(static device => device.AllocatedBytes) ?? KnownFacts().ActualSize;

    /// <summary>Size of the disk and what it occupies, as they are or were when somebody asked last. Waits for nothing.
    /// </summary>
    public (long Length, long AllocatedBytes) LastKnown =>
        Look(static device => (device.Length, device.AllocatedBytes)) ?? (_facts.VirtualSize, _facts.ActualSize);

    /// <inheritdoc/>
    public override bool IsReadOnly => Current?.IsReadOnly ?? _settings.ReadOnly;

    /// <summary>When it was last changed, through the mount or in the file, in ticks of UTC.</summary>
    public long ModifiedTicks
    {
        get
        {
            if (Current is null)
                Volatile.Write(ref _modifiedTicks, FileStamp.Of(_place).ModifiedTicks);
            return Volatile.Read(ref _modifiedTicks);
        }
        set => Volatile.Write(ref _modifiedTicks, value);
    }

    /// <inheritdoc/>
    protected override TimeSpan IdleTime => IdlePeriod;

    /// <summary>
    /// Its name has gone, and may be another file's soon: once it is closed it is not opened again.
    /// </summary>
    /// <returns>Whether it is closed for ever now; otherwise it is to be closed when it is idle.</returns>
    public bool Retire()
    {
        // Whoever begins to open it after this sees it, and whoever began before is seen here.
        _isRetired = true;
        Interlocked.MemoryBarrier();
        return IsClosed;
    }

    /// <summary>The name of its format, and what the header says now; null for a format without one.</summary>
    /// <exception cref="BlockException">It is no image, or cannot be read.</exception>
    public (string Format, Qcow2HeaderInfo? Header) ReadHeader()
    {
        using FileDevice file = OpenFile();
        KnownFormat format = ImageFormats.Of(file, _settings.Format);
        return (format.Name, format.ReadHeader(file));
    }

    /// <summary>Opens the image's file for reading, without locks.</summary>
    /// <exception cref="BlockException">It has gone, or may not be read.</exception>
    public FileDevice OpenFile() => _place.Open();

    /// <summary>
    /// What the header says now. Lists in the report are read from the file, bit by bit, by whoever goes through them.
    /// </summary>
    /// <exception cref="BlockException">It is no image, or cannot be read.</exception>
    public ImageReport OpenReport() => InfoVerb.Of(new ReopenedFile(Path, OpenFile), Path, _settings.Format);

    /// <summary>
    /// The partitions as they are now. A closed image is looked at without locks, and closed again; where that takes
    /// longer than the caller has patience, they are those that were there before.
    /// </summary>
    /// <exception cref="BlockException">The disk cannot be read.</exception>
    public PartitionTable ReadTable(LookPatience? patience = null)
    {
        DiskTable table = LazyInitializer.EnsureInitialized(
            ref _table,
            () => new DiskTable(
                () => FileStamp.Of(_place), () => ServedImage.OpenToLook(_settings, Path, _files!)));
        if (AcquireOpen() is not { } device)
            return table.Look(patience ?? new LookPatience());
        try
        {
            return table.ReadOpen(device);
        }
        finally
        {
            Release();
        }
    }

    /// <summary>Adds a file that shows a part of the disk.</summary>
    public void AddView(IDiskView view)
    {
        lock (_stateLock)
            Volatile.Write(ref _views, [.. _views, view]);
    }

    /// <summary>Removes it again.</summary>
    public void RemoveView(IDiskView view)
    {
        lock (_stateLock)
            Volatile.Write(ref _views, [.. _views.Where(other => !ReferenceEquals(other, view))]);
    }

    /// <summary>
    /// To be called after a range of the disk was changed through one of its files: the others may have it cached,
    /// and the partition table may lie in it.
    /// </summary>
    public void NoteChange(IDiskView through, long start, long length)
    {
        Volatile.Write(ref _modifiedTicks, DateTime.UtcNow.Ticks);
        Volatile.Read(ref _table)?.NoteChange(start, length);

        long ticket = 0;
        bool isRemembered = false;
        foreach (IDiskView view in Volatile.Read(ref _views))
        {
            if (ReferenceEquals(view, through) || view.Forget(start, length) is not (> 0 and var own))
                continue;

            // Looked at after the notification was asked for: who opens it for writing now waits for that.
            ticket = Math.Max(ticket, own);
            isRemembered |= view.MayHaveChangedPages;
        }

        if (isRemembered)
            Remember(through, start, length > long.MaxValue - start ? long.MaxValue : start + length, ticket);
    }

    /// <summary>
    /// Asks the kernel to write what programs have changed in pages of its files, from an offset of the disk on.
    /// </summary>
    /// <returns>Whether there can be any.</returns>
    public bool AskForPages(long from = 0)
    {
        bool isAsked = false;
        foreach (IDiskView view in Volatile.Read(ref _views))
        {
            if (!view.MayHaveChangedPages)
                continue;
            view.AskForPages(from);
            isAsked = true;
        }

        return isAsked;
    }

    /// <summary>
    /// To be called after the size has changed. The kernel has sizes and pages cached of all files but the one through
    /// which it was changed, if it was, and the backup of a GPT lies at the end.
    /// </summary>
    /// <param name="from">The smaller of the old and the new size.</param>
    /// <param name="through">The file by which the kernel knows of it.</param>
    public void NoteResize(long from, IDiskView? through = null)
    {
        Volatile.Read(ref _table)?.MarkStale();
        Volatile.Write(ref _modifiedTicks, DateTime.UtcNow.Ticks);
        long ticket = 0;
        foreach (IDiskView view in Volatile.Read(ref _views))
        {
            if (!ReferenceEquals(view, through))
                ticket = Math.Max(ticket, view.ForgetEnd(from));
        }

        // Old pages must not bring back what was cut off.
        if (ticket > 0 && Writes.HasWriters)
            Remember(through, from, long.MaxValue, ticket);
    }

    /// <summary>Says once in the log how a change of the size can be had.</summary>
    public void RefuseResize(string fileName)
    {
        if (Interlocked.Exchange(ref _resizeWasRefused, 1) == 0)
            HostLog.ResizeRefused(_logger, fileName);
    }

    /// <summary>Makes everything durable that was written.</summary>
    /// <exception cref="BlockException">Something is lost.</exception>
    public void Flush()
    {
        if (AcquireSettled() is null)
            return;
        try
        {
            _served!.Flush();
        }
        finally
        {
            Release();
        }
    }

    /// <summary>Closes the image and its files.</summary>
    /// <exception cref="BlockException">Something is lost.</exception>
    public void Dispose()
    {
        _isEnding = true;
        try
        {
            CloseAnyway();
        }
        finally
        {
            _writes?.Dispose();
            _place.Dispose();
        }
    }

    /// <inheritdoc/>
    protected override BlockDevice Open()
    {
        Interlocked.MemoryBarrier();
        if (_isRetired)
            throw new BlockException(BlockErrorKind.NotFound, $"{Printable.Text(Path)}: is not there any more");
        ServedImage image = _served ?? ServedImage.OpenToServe(_settings, Path, _files!, _logger);
        Volatile.Write(ref _served, image);
        Volatile.Read(ref _table)?.MarkStale();
        Interlocked.Increment(ref _openings);
        return image.Device;
    }

    /// <inheritdoc/>
    /// <remarks>
    /// What was acknowledged is in memory only until it is durable. The image stays open with it, whoever opens it next
    /// reads it, and his fsync hears whether it can be written.
    /// </remarks>
    protected override bool TryWriteOut()
    {
        try
        {
            _served!.Flush();
            return true;
        }
        catch (BlockException exception)
        {
            HostLog.StaysOpen(_logger, Path, IdleTime.TotalSeconds, exception.Message);
            return false;
        }
    }

    /// <inheritdoc/>
    protected override void Close(BlockDevice device)
    {
        ServedImage image = _served!;
        Volatile.Write(ref _served, null);
        try
        {
            Closed?.Invoke();
        }
        finally
        {
            CloseServed(image);
        }
    }

    private void CloseServed(ServedImage image)
    {
        if (_isEnding)
        {
            // Its owner has flushed it, and hears of a failure.
            image.Dispose();
            return;
        }

        try
        {
            image.Dispose();
        }
        catch (BlockException exception)
        {
            // Everything was durable before; the image says that it was not closed properly.
            HostLog.LastFlushFailed(_logger, Path, exception.Message);
        }
        finally
        {
            // Others may change the file from now on.
            foreach (IDiskView view in Volatile.Read(ref _views))
                view.Forget(0, long.MaxValue);
        }
    }

    private void Remember(IDiskView? through, long start, long end, long ticket) =>
        Writes.Newer.Add(start, end, through?.Number ?? 0, ticket, through?.Delivered ?? 0);

    private SharedWrites MakeWrites()
    {
        lock (_stateLock)
        {
            if (_writes is null)
                Volatile.Write(ref _writes, new SharedWrites(_newer ?? new NewerRanges(_settings.Memory, Path)));
            return _writes!;
        }
    }

    private ImageFacts ReadFacts()
    {
        using FileDevice file = OpenFile();
        Qcow2HeaderInfo? header = ImageFormats.Of(file, _settings.Format).ReadHeader(file);
        long length = file.Length;
        return new ImageFacts(
            header?.VirtualSize ?? length, file.AllocatedBytes, header?.ClusterSize ?? 0, length, IsImage: true);
    }

    /// <summary>
    /// What of the header is wanted again and again, read anew if the file has changed; zeroes for a file without a
    /// sound header: it shows size 0 and cannot be opened.
    /// </summary>
    public ImageFacts KnownFacts()
    {
        try
        {
            FileStamp stamp = FileStamp.Of(_place);
            lock (_stateLock)
            {
                if (!_facts.IsImage || stamp != _factsStamp)
                {
                    _facts = ReadFacts();
                    _factsStamp = stamp;
                }

                return _facts;
            }
        }
        catch (BlockException exception)
        {
            FileStamp stamp = FileStamp.Of(_place);
            if (stamp != _complainedOf)
                HostLog.NotAnImage(_logger, exception.Message);
            _complainedOf = stamp;
            return default;
        }
    }
}
