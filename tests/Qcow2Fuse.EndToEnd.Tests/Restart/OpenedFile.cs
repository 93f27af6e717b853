// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Restart;

/// <summary>An open file, with the error numbers that the system gives.</summary>
internal sealed class OpenedFile : IDisposable
{
    public const int BlockSize = 4096;

    private readonly int _descriptor;

    public OpenedFile(string path, bool readOnly = false)
    {
        _descriptor = LinuxFile.Open(
            path, OpenFlags.CloseOnExec | (readOnly ? OpenFlags.ReadOnly : OpenFlags.ReadWrite));
        Assert.True(_descriptor >= 0, $"{path}: {Errno.Text(-_descriptor)}");
    }

    public void Write(long offset, byte value) => Assert.Equal(0, TryWrite(offset, value));

    public void Sync() => Assert.Equal(0, LinuxFile.DataSync(_descriptor));

    /// <summary>A block has this value in every byte.</summary>
    public void ShouldRead(long offset, byte value)
    {
        byte[] bytes = new byte[BlockSize];
        Assert.Equal(BlockSize, LinuxFile.Read(_descriptor, bytes, offset));
        Assert.Equal(Block(value), bytes);
    }

    /// <summary>Whether a block has this value in every byte now.</summary>
    public bool Holds(long offset, byte value)
    {
        byte[] bytes = new byte[BlockSize];
        Assert.Equal(BlockSize, LinuxFile.Read(_descriptor, bytes, offset));
        return bytes.AsSpan().SequenceEqual(Block(value));
    }

    /// <summary>Every operation fails with an error number.</summary>
    public void ShouldFail(int errno)
    {
        const long Untouched = 8 << 20;
        Assert.Equal(-errno, LinuxFile.Read(_descriptor, new byte[BlockSize], Untouched));
        Assert.Equal(-errno, TryWrite(Untouched, 9));
        Assert.Equal(-errno, LinuxFile.DataSync(_descriptor));
        Assert.Equal(-errno, LinuxFile.Fallocate(
            _descriptor, FallocateMode.PunchHole | FallocateMode.KeepSize, Untouched, BlockSize));
        Assert.Equal(-errno, LinuxFile.Truncate(_descriptor, 64 << 20));
        Assert.Equal(-errno, LinuxFile.Seek(_descriptor, 0, SeekWhence.Data));
    }

    /// <inheritdoc/>
    public void Dispose() => _ = LinuxFile.Close(_descriptor);

    private static byte[] Block(byte value) => [.. Enumerable.Repeat(value, BlockSize)];

    private int TryWrite(long offset, byte value) => LinuxFile.Write(_descriptor, Block(value), offset);
}
