// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Block.Ranges;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Qcow2.Encryption;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Mapping;

/// <summary>
/// The guest's data where it lies, plain or encrypted. Everything that reads or writes it goes through here; the gate
/// is not held.
/// </summary>
/// <remarks>
/// Encrypted data is read and written in whole sectors. Whoever writes part of a sector reads it, changes it and writes
/// it, so a writer has its sectors alone, and a reader keeps writers away from them: nobody loses bytes of a neighbour,
/// and nobody decrypts half a sector. These locks are taken last and held during the I/O only.
/// </remarks>
internal sealed class GuestData : IDisposable
{
    private const int SectorBytes = SectorCipher.SectorBytes;

    /// <summary>Encrypted data, and zeroes, pass through buffers of this size.</summary>
    private const int PieceBytes = 1 << 20;

    private readonly BlockDevice _data;
    private readonly GuestCipher? _cipher;
    private readonly RangeLocks _sectors = new();

    /// <param name="data">Where the clusters lie.</param>
    /// <param name="cipher">How they are encrypted, or null; disposed with this.</param>
    public GuestData(BlockDevice data, GuestCipher? cipher)
    {
        _data = data;
        _cipher = cipher;
    }

    /// <summary>Whether bytes that are zero where they lie are not zero for the guest.</summary>
    public bool IsEncrypted => _cipher is not null;

    /// <summary>Reads what lies at <paramref name="host"/>; zeroes lie behind the end of the file.</summary>
    public void Read(GuestOffset guest, HostOffset host, Span<byte> destination)
    {
        if (_cipher is null)
        {
            _data.ReadPadded(host.Value, destination);
            return;
        }

        if (destination.IsEmpty)
            return;
        int skip = (int)(host.Value % SectorBytes);
        long span = RoundUp(skip + (long)destination.Length);
        using RangeLocks.Holder held = _sectors.Acquire(host.Value - skip, span, exclusive: false);
        if (skip == 0 && span == destination.Length)
        {
            ReadSectors(guest.Value, host.Value, destination);
            return;
        }

        using PooledBuffer buffer = BufferPool.Shared.Rent((int)Math.Min(span, PieceBytes));
        long at = -skip;
        while (!destination.IsEmpty)
        {
            Span<byte> piece = buffer.Span[..(int)Math.Min(span, buffer.Span.Length)];
            ReadSectors(guest.Value + at, host.Value + at, piece);
            int take = Math.Min(piece.Length - skip, destination.Length);
            piece.Slice(skip, take).CopyTo(destination);
            destination = destination[take..];
            at += piece.Length;
            span -= piece.Length;
            skip = 0;
        }
    }

    /// <summary>
    /// Writes three parts one after the other, of which any may be empty, from <paramref name="host"/> on. What they
    /// leave of their first and last sector stays as it is.
    /// </summary>
    public void Write(
        GuestOffset guest, HostOffset host, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
    {
        if (_cipher is null)
        {
            _data.WriteParts(host.Value, head, body, tail);
            return;
        }

        long length = (long)head.Length + body.Length + tail.Length;
        if (length == 0)
            return;
        int skip = (int)(host.Value % SectorBytes);
        long span = RoundUp(skip + length);
        using RangeLocks.Holder held = _sectors.Acquire(host.Value - skip, span, exclusive: true);
        using PooledBuffer buffer = BufferPool.Shared.Rent((int)Math.Min(span, PieceBytes));
        long first = host.Value - skip;
        long toGuest = guest.Value - host.Value;
        for (long at = first; at < first + span;)
        {
            Span<byte> piece = buffer.Span[..(int)Math.Min(first + span - at, buffer.Span.Length)];
            int start = (int)Math.Max(0, host.Value - at);
            int end = (int)Math.Min(piece.Length, host.Value + length - at);
            FillEdges(toGuest, at, piece, start, end);
            Span<byte> target = piece[start..end];
            Take(ref head, ref target);
            Take(ref body, ref target);
            Take(ref tail, ref target);
            _cipher.Encrypt(at + toGuest, at, piece);
            _data.Write(at, piece);
            at += piece.Length;
        }
    }

    /// <summary>Zeroes new clusters by the host, which only plain data allows.</summary>
    public void WriteZeroes(HostOffset host, long length)
    {
        if (_cipher is not null)
            throw new InvalidOperationException("Encrypted zeroes are not zeroes.");
        _data.WriteZeroes(host.Value, length, mayUnmap: false);
    }

    /// <summary>Writes zeroes as the guest sees them, which are other bytes where data is encrypted.</summary>
    public void WriteZeroBytes(GuestOffset guest, HostOffset host, long length)
    {
        using PooledBuffer zeroes = BufferPool.Shared.Rent((int)Math.Min(length, PieceBytes));
        zeroes.Span.Clear();
        for (long done = 0; done < length;)
        {
            int step = (int)Math.Min(length - done, zeroes.Span.Length);
            Write(guest + done, host + done, [], zeroes.Span[..step], []);
            done += step;
        }
    }

    public void Dispose() => _cipher?.Dispose();

    private static long RoundUp(long length) => (length + SectorBytes - 1) & -SectorBytes;

    /// <summary>Moves as much of a part into the target as fits, and shortens both.</summary>
    private static void Take(ref ReadOnlySpan<byte> part, ref Span<byte> target)
    {
        int length = Math.Min(part.Length, target.Length);
        part[..length].CopyTo(target);
        part = part[length..];
        target = target[length..];
    }

    /// <summary>
    /// Reads the first and last sector of a piece where <paramref name="start"/> and <paramref name="end"/> leave some
    /// of their bytes as they are.
    /// </summary>
    private void FillEdges(long toGuest, long at, Span<byte> piece, int start, int end)
    {
        int last = piece.Length - SectorBytes;
        if (start > 0)
            ReadSectors(at + toGuest, at, piece[..SectorBytes]);
        if (end < piece.Length && (last > 0 || start == 0))
            ReadSectors(at + last + toGuest, at + last, piece[last..]);
    }

    private void ReadSectors(long guest, long host, Span<byte> sectors)
    {
        _data.ReadPadded(host, sectors);
        _cipher!.Decrypt(guest, host, sectors);
    }
}
