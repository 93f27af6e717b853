// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Hosting.Images;

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
    private LatencyHistogram? _readLatency;
    private LatencyHistogram? _writeLatency;
    private LatencyHistogram? _zeroLatency;
    private LatencyHistogram? _flushLatency;

    public long Reads => Volatile.Read(ref _reads);

    public long ReadBytes => Volatile.Read(ref _readBytes);

    public long Writes => Volatile.Read(ref _writes);

    public long WrittenBytes => Volatile.Read(ref _writtenBytes);

    /// <summary>Punched holes and zeroed ranges.</summary>
    public long Zeroes => Volatile.Read(ref _zeroes);

    public long ZeroedBytes => Volatile.Read(ref _zeroedBytes);

    public long Flushes => Volatile.Read(ref _flushes);

    /// <summary>How long reads took.</summary>
    public LatencyHistogram ReadLatency => Volatile.Read(ref _readLatency) ?? LatencyHistogram.Empty;

    /// <summary>How long writes took.</summary>
    public LatencyHistogram WriteLatency => Volatile.Read(ref _writeLatency) ?? LatencyHistogram.Empty;

    /// <summary>How long punching holes and zeroing took.</summary>
    public LatencyHistogram ZeroLatency => Volatile.Read(ref _zeroLatency) ?? LatencyHistogram.Empty;

    /// <summary>How long flushes took.</summary>
    public LatencyHistogram FlushLatency => Volatile.Read(ref _flushLatency) ?? LatencyHistogram.Empty;

    public void CountRead(int bytes, long started)
    {
        Counted(ref _readLatency).Count(started);
        Interlocked.Increment(ref _reads);
        Interlocked.Add(ref _readBytes, bytes);
    }

    public void CountWrite(int bytes, long started)
    {
        Counted(ref _writeLatency).Count(started);
        Interlocked.Increment(ref _writes);
        Interlocked.Add(ref _writtenBytes, bytes);
    }

    public void CountZeroes(long bytes, long started)
    {
        Counted(ref _zeroLatency).Count(started);
        Interlocked.Increment(ref _zeroes);
        Interlocked.Add(ref _zeroedBytes, bytes);
    }

    public void CountFlush(long started)
    {
        Counted(ref _flushLatency).Count(started);
        Interlocked.Increment(ref _flushes);
    }

    /// <summary>Made when the first request is counted: of very many images most are never used.</summary>
    private static LatencyHistogram Counted(ref LatencyHistogram? histogram)
    {
        if (Volatile.Read(ref histogram) is { } known)
            return known;
        Interlocked.CompareExchange(ref histogram, new LatencyHistogram(), null);
        return histogram!;
    }
}
