// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Block.Live;

/// <summary>
/// The root of an image for as long as it is open. What is below it, a filter or the image itself, can be exchanged
/// while requests come: for that moment they wait, and those under way are waited for, transfers that others do
/// (<see cref="BlockDevice.TryBeginPlain"/>) too.
/// </summary>
public sealed class LiveDevice(BlockDevice top) : FilterDevice(top)
{
    private readonly Door _door = new();

    /// <summary>
    /// Exchanges what is below. All requests have ended when <paramref name="change"/> is called, and none begins
    /// before it returns. It gets what is below now, and returns what is to be there; what is not below any more is the
    /// caller's. If it throws, nothing has changed.
    /// </summary>
    /// <remarks>Never to be called within a request, nor by <paramref name="change"/>.</remarks>
    /// <exception cref="BlockException">What <paramref name="change"/> throws.</exception>
    public void Exchange(Func<BlockDevice, BlockDevice> change)
    {
        _door.Shut();
        try
        {
            Child = change(Child);
        }
        finally
        {
            _door.Open();
        }
    }

    /// <inheritdoc/>
    public override long AllocatedBytes
    {
        get
        {
            _door.Enter();
            try
            {
                return Child.AllocatedBytes;
            }
            finally
            {
                _door.Leave();
            }
        }
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        _door.Enter();
        try
        {
            Child.Read(offset, destination);
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override void Write(long offset, ReadOnlySpan<byte> source)
    {
        _door.Enter();
        try
        {
            Child.Write(offset, source);
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override void WriteParts(
        long offset, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, ReadOnlySpan<byte> tail)
    {
        _door.Enter();
        try
        {
            Child.WriteParts(offset, head, body, tail);
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override void WriteZeroes(long offset, long length, bool mayUnmap)
    {
        _door.Enter();
        try
        {
            Child.WriteZeroes(offset, length, mayUnmap);
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override void Discard(long offset, long length)
    {
        _door.Enter();
        try
        {
            Child.Discard(offset, length);
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override void Flush()
    {
        _door.Enter();
        try
        {
            Child.Flush();
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override Extent GetExtent(long offset, long length)
    {
        _door.Enter();
        try
        {
            return Child.GetExtent(offset, length);
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override DeviceRun GetRun(long offset, long length, bool joinsUnstored)
    {
        _door.Enter();
        try
        {
            return Child.GetRun(offset, length, joinsUnstored);
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override void Resize(long length)
    {
        _door.Enter();
        try
        {
            Child.Resize(length);
        }
        finally
        {
            _door.Leave();
        }
    }

    /// <inheritdoc/>
    /// <remarks>A run keeps the door open until its end, and a shut door is not waited for.</remarks>
    public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
    {
        run = default;
        if (!_door.TryEnter())
            return false;
        bool isBegun = false;
        try
        {
            return isBegun = Child.TryBeginPlain(offset, length, isWrite, out run);
        }
        finally
        {
            if (!isBegun)
                _door.Leave();
        }
    }

    /// <inheritdoc/>
    public override void EndPlain(in PlainRun run)
    {
        try
        {
            Child.EndPlain(run);
        }
        finally
        {
            _door.Leave();
        }
    }
}
