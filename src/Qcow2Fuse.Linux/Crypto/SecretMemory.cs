// SPDX-License-Identifier: MIT
using System.Buffers;
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Crypto;

/// <summary>
/// Memory for a key or a passphrase, of pages of its own: kept from swap where the limit on locked memory allows it
/// (mlock(2)), left out of core files and of children (madvise(2)), never moved, and wiped on dispose.
/// </summary>
public sealed unsafe partial class SecretMemory : MemoryManager<byte>, IDisposable
{
    private const int ReadWrite = 3;
    private const int PrivateAnonymous = 0x22;
    private const int DontDump = 16;
    private const int WipeOnFork = 18;
    private const nint Failed = -1;

    private readonly int _length;
    private byte* _bytes;

    /// <summary>Takes memory, all zeroes.</summary>
    /// <param name="length">Bytes, 1 at least.</param>
    /// <exception cref="InsufficientMemoryException">There is none.</exception>
    public SecretMemory(int length)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(length, 1);
        nint address = MapNative(0, (nuint)length, ReadWrite, PrivateAnonymous, -1, 0);
        if (address == Failed)
            throw new InsufficientMemoryException();
        _bytes = (byte*)address;
        _length = length;

        // What an old kernel or a limit refuses leaves the memory as safe as any other.
        _ = LockNative(_bytes, (nuint)length);
        _ = AdviseNative(_bytes, (nuint)length, DontDump);
        _ = AdviseNative(_bytes, (nuint)length, WipeOnFork);
    }

    /// <summary>Takes memory for a copy of <paramref name="bytes"/>, 1 at least.</summary>
    public SecretMemory(ReadOnlySpan<byte> bytes)
        : this(bytes.Length) => bytes.CopyTo(Span);

    /// <summary>Clears what its owner has forgotten.</summary>
    ~SecretMemory() => Free();

    /// <summary>The bytes.</summary>
    public Span<byte> Span => GetSpan();

    /// <inheritdoc/>
    public override Span<byte> GetSpan()
    {
        ObjectDisposedException.ThrowIf(_bytes == null, this);
        return new Span<byte>(_bytes, _length);
    }

    /// <inheritdoc/>
    public override MemoryHandle Pin(int elementIndex = 0) => new(_bytes + elementIndex);

    /// <inheritdoc/>
    public override void Unpin()
    {
        // It never moves.
    }

    /// <summary>Wipes the bytes and gives the memory back.</summary>
    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => Free();

    private void Free()
    {
        if (_bytes == null)
            return;
        System.Security.Cryptography.CryptographicOperations.ZeroMemory(new Span<byte>(_bytes, _length));
        _ = UnmapNative(_bytes, (nuint)_length);
        _bytes = null;
    }

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial nint MapNative(nint address, nuint length, int protection, int flags, int fd, nint offset);

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    private static partial int UnmapNative(byte* address, nuint length);

    [LibraryImport("libc", EntryPoint = "mlock", SetLastError = true)]
    private static partial int LockNative(byte* address, nuint length);

    [LibraryImport("libc", EntryPoint = "madvise", SetLastError = true)]
    private static partial int AdviseNative(byte* address, nuint length, int advice);
}
