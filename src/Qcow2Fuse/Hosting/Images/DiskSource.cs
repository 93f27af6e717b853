// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block;

namespace Qcow2Fuse.Hosting;

/// <summary>A disk that is opened for its first user and closed behind its last.</summary>
internal abstract class DiskSource
{
    private readonly Lock _lock = new();
    private BlockDevice? _device;
    private int _users;
    private long _unusedSince;

    /// <summary>The open disk, or null. It stays open for whoever has called <see cref="Acquire"/>.</summary>
    public BlockDevice? Current => Volatile.Read(ref _device);

    /// <summary>Size in bytes, also while it is closed.</summary>
    public abstract long Length { get; }

    /// <summary>Bytes it occupies on the host, also while it is closed.</summary>
    public abstract long AllocatedBytes { get; }

    /// <summary>Whether it cannot be written, as far as is known while it is closed.</summary>
    public abstract bool IsReadOnly { get; }

    /// <summary>How long it stays open without a user; zero to close at once.</summary>
    protected virtual TimeSpan IdleTime => TimeSpan.Zero;

    /// <summary>Opens the disk if it is closed, and keeps it open until <see cref="Release"/>.</summary>
    /// <exception cref="BlockException">It cannot be opened.</exception>
    public BlockDevice Acquire()
    {
        lock (_lock)
        {
            BlockDevice device = _device ?? Open();
            Volatile.Write(ref _device, device);
            _users++;
            return device;
        }
    }

    /// <summary>Keeps the disk open if it is open; else null, and nothing is to be released.</summary>
    public BlockDevice? AcquireOpen()
    {
        lock (_lock)
        {
            if (_device is not null)
                _users++;
            return _device;
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

        if (IdleTime == TimeSpan.Zero)
            CloseUnused(TimeSpan.Zero);
    }

    /// <summary>Closes the disk if it has had no user for <paramref name="time"/>.</summary>
    /// <returns>Whether it is closed now.</returns>
    public bool CloseUnused(TimeSpan time)
    {
        lock (_lock)
        {
            if (_device is null)
                return true;
            if (_users > 0 || Environment.TickCount64 - _unusedSince < (long)time.TotalMilliseconds)
                return false;
            BlockDevice device = _device;
            Volatile.Write(ref _device, null);
            Close(device);
            return true;
        }
    }

    /// <summary>Closes the disk if it is idle.</summary>
    public void CloseIdle() => CloseUnused(IdleTime);

    /// <summary>Closes the disk whoever used it; for the end, when nobody can call any more.</summary>
    protected void CloseAnyway()
    {
        lock (_lock)
        {
            BlockDevice? device = _device;
            Volatile.Write(ref _device, null);
            if (device is not null)
                Close(device);
        }
    }

    /// <summary>Opens the disk.</summary>
    protected abstract BlockDevice Open();

    /// <summary>Closes it.</summary>
    protected abstract void Close(BlockDevice device);
}
