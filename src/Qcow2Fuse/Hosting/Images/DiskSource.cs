// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>A disk that is opened for its first user and closed behind its last.</summary>
/// <remarks>
/// Opening and closing may take seconds. No lock is held meanwhile, so that only those wait who cannot do without the
/// open disk.
/// </remarks>
internal abstract class DiskSource
{
    private readonly object _lock = new();
    private BlockDevice? _device;
    private BlockException? _failure;
    private int _attempts;
    private bool _isChanging;
    private int _users;
    private long _unusedSince;

    /// <summary>The open disk, or null. It stays open for whoever has called <see cref="Acquire"/>.</summary>
    public BlockDevice? Current => Volatile.Read(ref _device);

    /// <summary>Whether it is closed, and nobody is opening it.</summary>
    public bool IsClosed
    {
        get
        {
            lock (_lock)
                return _device is null && !_isChanging;
        }
    }

    /// <summary>Size in bytes, also while it is closed.</summary>
    public abstract long Length { get; }

    /// <summary>Bytes it occupies on the host, also while it is closed.</summary>
    public abstract long AllocatedBytes { get; }

    /// <summary>Whether it cannot be written, as far as is known while it is closed.</summary>
    public abstract bool IsReadOnly { get; }

    /// <summary>How long it stays open without a user; zero to close at once.</summary>
    protected virtual TimeSpan IdleTime => TimeSpan.Zero;

    /// <summary>
    /// Opens the disk if it is closed, and keeps it open until <see cref="Release"/>. Whoever comes while somebody else
    /// opens it shares what that comes to.
    /// </summary>
    /// <exception cref="BlockException">It cannot be opened.</exception>
    public BlockDevice Acquire()
    {
        lock (_lock)
        {
            while (_isChanging)
            {
                int attempt = _attempts;
                Monitor.Wait(_lock);
                if (_attempts != attempt && _failure is { } failure && !_isChanging)
                    throw new BlockException(failure.Kind, failure.Message, failure, failure.Cause);
            }

            if (_device is not null)
            {
                _users++;
                return _device;
            }

            _isChanging = true;
        }

        BlockDevice? opened = null;
        BlockException? failed = null;
        try
        {
            return opened = Open();
        }
        catch (BlockException exception)
        {
            failed = exception;
            throw;
        }
        finally
        {
            lock (_lock)
            {
                Volatile.Write(ref _device, opened);
                if (opened is not null)
                    _users++;
                _failure = failed;
                _attempts++;
                EndChange();
            }
        }
    }

    /// <summary>
    /// Keeps the disk open if it is open; else null, and nothing is to be released. Waits for nothing.
    /// </summary>
    public BlockDevice? AcquireOpen()
    {
        lock (_lock)
        {
            // One that is about to be closed is open for nobody any more.
            if (_device is null || _isChanging)
                return null;
            _users++;
            return _device;
        }
    }

    /// <summary>
    /// Keeps the disk open if it is open, as <see cref="AcquireOpen"/>, but waits for whoever opens or closes it: a
    /// disk that could not be written out before its close is open again then.
    /// </summary>
    protected BlockDevice? AcquireSettled()
    {
        lock (_lock)
        {
            while (_isChanging)
                Monitor.Wait(_lock);
            if (_device is not null)
                _users++;
            return _device;
        }
    }

    /// <summary>
    /// Looks at the open disk, which is not closed meanwhile, but no later for it; null where it is closed.
    /// </summary>
    protected T? Look<T>(Func<BlockDevice, T> look)
        where T : struct
    {
        if (AcquireOpen() is not { } device)
            return null;
        try
        {
            return look(device);
        }
        finally
        {
            lock (_lock)
                _users--;
            CloseIfTransient();
        }
    }

    /// <summary>Undoes one <see cref="Acquire"/>.</summary>
    public void Release()
    {
        lock (_lock)
        {
            _users--;
            _unusedSince = Environment.TickCount64;
        }

        CloseIfTransient();
    }

    /// <summary>
    /// Closes the disk if it has had no user for <paramref name="time"/>. One that cannot be written out stays open.
    /// </summary>
    /// <returns>Whether it is closed now.</returns>
    public bool CloseUnused(TimeSpan time)
    {
        BlockDevice device;
        lock (_lock)
        {
            if (_isChanging)
                return false;
            if (_device is null)
                return true;
            if (_users > 0 || Environment.TickCount64 - _unusedSince < (long)time.TotalMilliseconds)
                return false;
            _isChanging = true;
            device = _device;
        }

        bool isWrittenOut = false;
        try
        {
            isWrittenOut = TryWriteOut();
        }
        finally
        {
            lock (_lock)
            {
                if (isWrittenOut)
                {
                    Volatile.Write(ref _device, null);
                }
                else
                {
                    // The next attempt is after the same time, or by whoever opens it again.
                    _unusedSince = Environment.TickCount64;
                    _failure = null;
                    EndChange();
                }
            }
        }

        if (isWrittenOut)
            CloseTaken(device);
        return isWrittenOut;
    }

    /// <summary>Closes the disk if it is idle.</summary>
    public void CloseIdle() => CloseUnused(IdleTime);

    /// <summary>Closes the disk whoever used it; for the end, when nobody can call any more.</summary>
    protected void CloseAnyway()
    {
        BlockDevice device;
        lock (_lock)
        {
            while (_isChanging)
                Monitor.Wait(_lock);
            if (_device is null)
                return;
            device = _device;
            Volatile.Write(ref _device, null);
            _isChanging = true;
        }

        CloseTaken(device);
    }

    /// <summary>Opens the disk; called by one thread at a time, and never while <see cref="Close"/> runs.</summary>
    protected abstract BlockDevice Open();

    /// <summary>
    /// Makes everything durable before it is closed without a user; false where that failed, so that it has to stay
    /// open. Nobody opens or uses it meanwhile.
    /// </summary>
    protected virtual bool TryWriteOut() => true;

    /// <summary>Closes it.</summary>
    protected abstract void Close(BlockDevice device);

    private void CloseIfTransient()
    {
        if (IdleTime == TimeSpan.Zero)
            CloseUnused(TimeSpan.Zero);
    }

    private void CloseTaken(BlockDevice device)
    {
        try
        {
            Close(device);
        }
        finally
        {
            lock (_lock)
            {
                _failure = null;
                EndChange();
            }
        }
    }

    private void EndChange()
    {
        _isChanging = false;
        Monitor.PulseAll(_lock);
    }
}
