// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Memory;

namespace Qcow2Fuse.Block.Device;

/// <summary>
/// A flat array of bytes that can be read, written and made durable. Leaves (files, memory), formats (raw, qcow2)
/// and filters are all block devices, so each of them runs on top of any other.
/// </summary>
/// <remarks>
/// Offsets and lengths are in bytes and need no alignment beyond <see cref="BlockLimits.RequestAlignment"/>.
/// Every method may be called from any number of threads at once; <see cref="IDisposable.Dispose"/> only after all
/// other calls have returned. Failures are <see cref="BlockException"/>; a range outside the device is
/// <see cref="BlockErrorKind.OutOfRange"/>, except that a device whose <see cref="BlockLimits.GrowsOnWrite"/> is set
/// grows when written past its end.
/// </remarks>
public abstract class BlockDevice : IDisposable
{
    /// <summary>What messages call this device, usually the path of its file.</summary>
    public abstract string Name { get; }

    /// <summary>The size in bytes, 0 to 2^63−1.</summary>
    public abstract long Length { get; }

    /// <summary>Whether writes, zeroes, discards and resizes fail with <see cref="BlockErrorKind.ReadOnly"/>.</summary>
    public abstract bool IsReadOnly { get; }

    /// <summary>What requests the device takes, fixed for its life.</summary>
    public virtual BlockLimits Limits => BlockLimits.None;

    /// <summary>Bytes of storage the device occupies where it is kept; for <c>st_blocks</c>.</summary>
    public virtual long AllocatedBytes => Length;

    /// <summary>Fills <paramref name="destination"/> wholly from <paramref name="offset"/> on.</summary>
    public abstract void Read(long offset, Span<byte> destination);

    /// <summary>
    /// Writes <paramref name="source"/>. When it returns, reads see the data; it is durable after the next
    /// <see cref="Flush"/> that begins later.
    /// </summary>
    public abstract void Write(long offset, ReadOnlySpan<byte> source);

    /// <summary>Makes every write, zeroing, discard and resize that had returned before this call durable.</summary>
    public abstract void Flush();

    /// <summary>
    /// Describes the run of equal kind that starts at <paramref name="offset"/>, at most <paramref name="length"/>
    /// (at least 1) long. The answer may be shorter than the real run, but is never empty.
    /// </summary>
    public abstract Extent GetExtent(long offset, long length);

    /// <summary>
    /// Like <see cref="GetExtent"/>, but for whoever walks over much of a device: a run goes on over bytes that lie in
    /// different places, and as far as a bounded part of the metadata tells. The answer may be shorter than the real
    /// run, but is never empty.
    /// </summary>
    /// <param name="offset">Where it begins, in bytes.</param>
    /// <param name="length">Its length at most, at least 1.</param>
    /// <param name="joinsUnstored">Whether zeroes and what is not stored may make one run,
    /// <see cref="RunKind.Unstored"/>.</param>
    public virtual DeviceRun GetRun(long offset, long length, bool joinsUnstored) =>
        DeviceRun.Of(GetExtent(offset, length));

    /// <summary>
    /// Writes <paramref name="head"/>, <paramref name="body"/> and <paramref name="tail"/> one after the other, as
    /// one request where the device can. Any of them may be empty.
    /// </summary>
    public virtual void WriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
    {
        if (head.IsEmpty && tail.IsEmpty)
        {
            Write(offset, body);
            return;
        }

        using PooledBuffer joined = BufferPool.Shared.Rent(checked(head.Length + body.Length + tail.Length));
        Span<byte> all = joined.Span;
        head.CopyTo(all);
        body.CopyTo(all[head.Length..]);
        tail.CopyTo(all[(head.Length + body.Length)..]);
        Write(offset, all);
    }

    /// <summary>
    /// Makes the range read as zeroes. With <paramref name="mayUnmap"/> the storage behind it may be given back,
    /// without it the storage stays reserved where the device knows how. The default writes zeroes.
    /// </summary>
    public virtual void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        const int Step = 1 << 20;
        using PooledBuffer zeroes = BufferPool.Shared.Rent((int)Math.Min(length, Step));
        zeroes.Span.Clear();
        while (length > 0)
        {
            int step = (int)Math.Min(length, Step);
            Write(offset, zeroes.Span[..step]);
            offset += step;
            length -= step;
        }
    }

    /// <summary>
    /// A hint that nobody needs the content of the range any more: each byte keeps its value or reads as zero
    /// afterwards. The default does nothing.
    /// </summary>
    public virtual void Discard(long offset, long length)
    {
    }

    /// <summary>
    /// Says that the storage has to end where the device does, whenever the process is killed: its length is that of a
    /// disk. Without it a write to the end of a file may make that longer, up to
    /// <see cref="BlockLimits.RequestAlignment"/>, until the device is disposed. The default does nothing, for devices
    /// of which that is always so.
    /// </summary>
    public virtual void KeepLength()
    {
    }

    /// <summary>Changes <see cref="Length"/>; new space reads as zeroes.</summary>
    public virtual void Resize(long length) =>
        throw new BlockException(BlockErrorKind.NotSupported, $"{Name}: cannot be resized");

    /// <summary>
    /// Begins a read or write that the caller does himself in the file behind the device, where the whole range is one
    /// run of plain bytes there and nothing but the transfer has to be done. Does no I/O, and waits for no other
    /// request; for a lock a millisecond at most.
    /// </summary>
    /// <param name="offset">Where the range begins, in bytes; one outside the device is refused as all others.</param>
    /// <param name="length">Its length in bytes.</param>
    /// <param name="isWrite">Whether it will be written; all of it or, as far as others can tell, any part.</param>
    /// <param name="run">Where the bytes are; to be given to <see cref="EndPlain"/> after the transfer.</param>
    /// <returns>
    /// False where it is not so, or not known without I/O, or not sound: <see cref="Read"/> and <see cref="Write"/>
    /// then do it, or say why not. The default.
    /// </returns>
    public virtual bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
    {
        run = default;
        return false;
    }

    /// <summary>
    /// Ends what <see cref="TryBeginPlain"/> of this device began, once nobody reads or writes there any more, whether
    /// the transfer succeeded or not. A transfer that failed is done again by <see cref="Read"/> or
    /// <see cref="Write"/>. Waits for nothing.
    /// </summary>
    public virtual void EndPlain(in PlainRun run)
    {
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Releases what the device holds, its children included. Called once.</summary>
    protected virtual void Dispose(bool disposing)
    {
    }

    /// <summary>Throws <see cref="BlockErrorKind.OutOfRange"/> unless the range lies in the device.</summary>
    protected void CheckRange(long offset, long length)
    {
        if (offset < 0 || length < 0 || length > Length - offset)
            throw BlockException.OutOfRange(Name, Length, offset, length);
    }

    /// <summary>Throws <see cref="BlockErrorKind.ReadOnly"/> if the device is read-only.</summary>
    protected void CheckWritable()
    {
        if (IsReadOnly)
            throw new BlockException(BlockErrorKind.ReadOnly, $"{Name}: is read-only");
    }
}
