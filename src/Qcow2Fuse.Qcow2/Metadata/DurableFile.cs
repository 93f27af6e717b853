// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>Makes what was written to the file durable, and knows whether that has failed.</summary>
/// <remarks>
/// After a failed flush of the file nobody knows what of it is durable, and a second flush may lie: from then on every
/// flush and every write fails. Used with the image's gate held, but for <see cref="HasFailed"/>, which anybody
/// may ask.
/// </remarks>
internal sealed class DurableFile
{
    private readonly BlockDevice _file;
    private readonly BlockDevice? _externalData;
    private readonly HeaderStore _header;
    private readonly ImageGate _gate;
    private readonly PackedBytes? _packed;
    private BlockException? _failure;

    /// <param name="image">The image.</param>
    /// <param name="externalData">Where guest data lies, unless that is the image file.</param>
    /// <param name="packed">Writes compressed clusters, and a write of it that fails is final too; or null.</param>
    public DurableFile(ImageCore image, BlockDevice? externalData, PackedBytes? packed)
    {
        _file = image.File;
        _externalData = externalData;
        _header = image.Header;
        _gate = image.Gate;
        _packed = packed;
    }

    /// <summary>Whether a flush of the file failed, so that nothing more can be made durable.</summary>
    public bool HasFailed => _failure is not null || _packed?.Failure is not null;

    /// <summary>Throws if an earlier flush of the file failed, or a write of packed clusters.</summary>
    public void ThrowIfFailed()
    {
        _packed?.ThrowIfFailed();
        if (_failure is not null)
            throw new BlockException(BlockErrorKind.Io,
                $"{_file.Name}: an earlier flush failed, nothing more is written: {_failure.Message}", _failure);
    }

    /// <summary>
    /// Says that a change of the header failed, so that nobody knows what the file holds: final, like a failed flush.
    /// </summary>
    public void Fail(BlockException failure) => _failure ??= failure;

    /// <summary>
    /// Changes fields of the header durably. A write that failed may have changed the file nevertheless: then the old
    /// fields are put back, durably, before the failure is thrown on; where that fails too, it is final. The gate is
    /// held, and released for the flush.
    /// </summary>
    public void UpdateHeader(Func<Qcow2Header, Qcow2Header> change)
    {
        try
        {
            _header.Update(change);
        }
        catch (BlockException)
        {
            PutHeaderBack();
            throw;
        }

        Barrier();
    }

    /// <summary>Flushes the file with the gate released. A failure is final.</summary>
    public void Barrier() => Barrier(withData: false);

    /// <summary>
    /// Flushes the file, before it the external data file where asked to, with the gate released. A failure is final.
    /// </summary>
    public void Barrier(bool withData)
    {
        BlockException? failure = null;
        using (_gate.Release())
        {
            try
            {
                if (withData)
                    _externalData?.Flush();
                _file.Flush();
            }
            catch (BlockException e)
            {
                failure = e;
            }
        }

        if (failure is null)
            return;
        _failure ??= failure;
        throw new BlockException(failure.Kind, failure.Message, failure, failure.Cause);
    }

    private void PutHeaderBack()
    {
        try
        {
            _header.Reassert();
        }
        catch (BlockException e)
        {
            Fail(e);
            throw;
        }

        Barrier();
    }
}
