// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting;

/// <summary>
/// What the requests of an image's files add up to; counted by any number of threads. The time at which a request
/// began is one of <see cref="System.Diagnostics.Stopwatch"/>.
/// </summary>
internal sealed class ImageCounters
{
    private long _reads;
    private long _readBytes;
    private long _writes;
    private long _writtenBytes;
    private long _zeroes;
    private long _zeroedBytes;
    private long _flushes;

    public long Reads => Volatile.Read(ref _reads);

    public long ReadBytes => Volatile.Read(ref _readBytes);

    public long Writes => Volatile.Read(ref _writes);

    public long WrittenBytes => Volatile.Read(ref _writtenBytes);

    /// <summary>Punched holes and zeroed ranges.</summary>
    public long Zeroes => Volatile.Read(ref _zeroes);

    public long ZeroedBytes => Volatile.Read(ref _zeroedBytes);

    public long Flushes => Volatile.Read(ref _flushes);

    /// <summary>How long reads took.</summary>
    public LatencyHistogram ReadLatency { get; } = new();

    /// <summary>How long writes took.</summary>
    public LatencyHistogram WriteLatency { get; } = new();

    /// <summary>How long punching holes and zeroing took.</summary>
    public LatencyHistogram ZeroLatency { get; } = new();

    /// <summary>How long flushes took.</summary>
    public LatencyHistogram FlushLatency { get; } = new();

    public void CountRead(int bytes, long started)
    {
        ReadLatency.Count(started);
        Interlocked.Increment(ref _reads);
        Interlocked.Add(ref _readBytes, bytes);
    }

    public void CountWrite(int bytes, long started)
    {
        WriteLatency.Count(started);
        Interlocked.Increment(ref _writes);
        Interlocked.Add(ref _writtenBytes, bytes);
    }

    public void CountZeroes(long bytes, long started)
    {
        ZeroLatency.Count(started);
        Interlocked.Increment(ref _zeroes);
        Interlocked.Add(ref _zeroedBytes, bytes);
    }

    public void CountFlush(long started)
    {
        FlushLatency.Count(started);
        Interlocked.Increment(ref _flushes);
    }
}
