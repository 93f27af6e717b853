// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Block.Live;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>
/// Exchanges what is below an image for another device with the same content, before every third request that changes
/// something or flushes.
/// </summary>
internal sealed class ExchangingDevice(LiveDevice live) : FilterDevice(live)
{
    private const int Every = 3;
    private int _requests;

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        Exchange();
        base.Write(offset, source);
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        Exchange();
        base.WriteZeroes(offset, length, mayUnmap);
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        Exchange();
        base.Discard(offset, length);
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        Exchange();
        base.Flush();
    }

    private void Exchange()
    {
        if (Interlocked.Increment(ref _requests) % Every == 0)
            LiveChain.ChangeBacking(live, static below => ((BackingDevice?)below)?.Another())?.Dispose();
    }
}
