// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Testing;

/// <summary>Reads and writes through <see cref="BlockDevice.TryBeginPlain"/> wherever a device lets it.</summary>
/// <param name="child">The device; it belongs to this one.</param>
public sealed class PlainAccess(BlockDevice child) : FilterDevice(child)
{
    private int _transfers;

    /// <summary>Requests that were served this way.</summary>
    public int Transfers => Volatile.Read(ref _transfers);

    /// <summary>Moves the bytes of a run, by aligned memory: from <paramref name="source"/>, or to
    /// <paramref name="destination"/> where that is empty.</summary>
    public static unsafe void Move(in PlainRun run, ReadOnlySpan<byte> source, Span<byte> destination)
    {
        int length = source.Length + destination.Length;
        if (run.Kind == PlainRunKind.Zeroes && source.IsEmpty)
        {
            destination.Clear();
            return;
        }

        byte* memory = (byte*)NativeMemory.AlignedAlloc((nuint)length, PlainRun.MemoryAlignment);
        try
        {
            Span<byte> aligned = new(memory, length);
            source.CopyTo(aligned);
            int result = source.IsEmpty
                ? LinuxFile.Read(run.Descriptor, aligned, run.Offset)
                : LinuxFile.Write(run.Descriptor, aligned, run.Offset);
            if (result != destination.Length)
                throw new InvalidOperationException($"a transfer of {length} bytes: {result}");
            aligned[..destination.Length].CopyTo(destination);
        }
        finally
        {
            NativeMemory.AlignedFree(memory);
        }
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        if (!Child.TryBeginPlain(offset, destination.Length, isWrite: false, out PlainRun run))
        {
            Child.Read(offset, destination);
            return;
        }

        Transfer(run, source: [], destination);
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        if (!Child.TryBeginPlain(offset, source.Length, isWrite: true, out PlainRun run))
        {
            Child.Write(offset, source);
            return;
        }

        Transfer(run, source, destination: []);
    }

    private void Transfer(in PlainRun run, ReadOnlySpan<byte> source, Span<byte> destination)
    {
        try
        {
            Move(run, source, destination);
            Interlocked.Increment(ref _transfers);
        }
        finally
        {
            Child.EndPlain(run);
        }
    }
}
