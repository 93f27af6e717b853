// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>Requests that are one transfer in the data file, for callers that do it themselves and must not wait.
/// </summary>
/// <remarks>
/// The lookup and the epoch are those of <see cref="GuestReader.Read"/> and <see cref="GuestWriter.Write"/>, in one
/// critical section too; only the transfer is somebody else's. Whatever needs more than that, an encrypted or
/// compressed cluster, a table that is not in memory, an allocation, the first write, is refused.
/// </remarks>
internal sealed class PlainRuns
{
    /// <summary>Who holds the gate may be writing a table, and the caller serves others meanwhile.</summary>
    private const int PatienceMilliseconds = 1;

    private readonly BlockDevice _keeper;
    private readonly ImageCore _image;
    private readonly BlockDevice _data;
    private readonly DurableFile _durable;
    private readonly OperationEpochs _epochs;
    private readonly GuardSurvey _survey;
    private readonly ClusterLookup _lookup;
    private readonly InPlaceLookup _inPlace;
    private readonly BitmapLife _bitmaps;
    private readonly FirstWrite _firstWrite;
    private readonly bool _isPossible;

    /// <param name="keeper">The device whose runs these are.</param>
    /// <param name="image">The image.</param>
    /// <param name="metadata">Its metadata.</param>
    /// <param name="lookup">The tables of the disk.</param>
    /// <param name="inPlace">Where it is overwritten.</param>
    /// <param name="bitmaps">Record what is overwritten.</param>
    /// <param name="firstWrite">Comes before any.</param>
    /// <param name="isPossible">Whether the bytes of the disk are those of the file: neither encrypted nor gathered
    /// first.</param>
    public PlainRuns(
        BlockDevice keeper, ImageCore image, ImageMetadata metadata, ClusterLookup lookup, InPlaceLookup inPlace,
        BitmapLife bitmaps, FirstWrite firstWrite, bool isPossible)
    {
        _keeper = keeper;
        _image = image;
        _data = image.Data;
        _durable = metadata.Durable;
        _epochs = metadata.Epochs;
        _survey = metadata.Survey;
        _lookup = lookup;
        _inPlace = inPlace;
        _bitmaps = bitmaps;
        _firstWrite = firstWrite;
        _isPossible = isPossible;
    }

    private enum Place
    {
        None,
        Here,
        Backing,
    }

    /// <summary>As <see cref="BlockDevice.TryBeginPlain"/>.</summary>
    public bool TryBegin(long offset, int length, bool isWrite, out PlainRun run)
    {
        run = default;
        if (!_isPossible || offset < 0 || length <= 0 || offset > _image.Size.Length - length)
            return false;
        Place place = Place.None;
        BlockDevice? backing = _image.Backing;
        if (!_image.Gate.TryEnter(PatienceMilliseconds, out ImageGate.Held held))
            return false;
        try
        {
            if (isWrite)
                place = TryBeginOverwrite(offset, length, out run) ? Place.Here : Place.None;
            else
                place = BeginRead(backing, offset, length, out run);
        }
        catch (BlockException)
        {
            // An entry that is no good: the request comes again the other way, which reports it.
            return false;
        }
        finally
        {
            held.Dispose();
        }

        if (place != Place.Backing)
            return place == Place.Here;
        if (!backing!.TryBeginPlain(offset, length, isWrite: false, out run))
            return false;

        // It ends where it has begun, whatever is below by then.
        run = run with { Keeper = run.Keeper ?? backing };
        return true;
    }

    /// <summary>As <see cref="BlockDevice.EndPlain"/>.</summary>
    public void End(in PlainRun run)
    {
        if (!ReferenceEquals(run.Keeper, _keeper))
        {
            run.Keeper!.EndPlain(run);
            return;
        }

        _data.EndPlain(run);
        _epochs.Exit(run.Token);
    }

    private Place BeginRead(BlockDevice? backing, long offset, int length, out PlainRun run)
    {
        run = default;
        if (!_lookup.TryLookup(new GuestOffset(offset), length, out ReadMapping mapping) || mapping.Length < length)
            return Place.None;
        bool isUnallocated = mapping.Kind == MappingKind.Unallocated;
        if (isUnallocated && backing is not null && offset <= backing.Length - length)
            return Place.Backing;
        if (mapping.Kind == MappingKind.Zero || (isUnallocated && (backing is null || offset >= backing.Length)))
            run = PlainRun.Zeroes;
        else if (mapping.Kind != MappingKind.Data
            || !_data.TryBeginPlain(mapping.Host.Value, length, isWrite: false, out run))
            return Place.None;
        Keep(ref run);
        return Place.Here;
    }

    private bool TryBeginOverwrite(long offset, int length, out PlainRun run)
    {
        run = default;
        bool isReady = !_image.IsReadOnly && _firstWrite.HasBegun && !_image.Corrupt.IsFound && _survey.IsComplete
            && !_durable.HasFailed;

        // In clusters smaller than the blocks of O_DIRECT a table could share a block with the data.
        bool isAlone = _image.Geometry.ClusterSize >= _data.Limits.RequestAlignment;
        if (!isReady || !isAlone || !_inPlace.TryOverwrite(new GuestOffset(offset), length, out HostOffset host)
            || !_data.TryBeginPlain(host.Value, length, isWrite: true, out run))
            return false;
        _bitmaps.MarkChange(offset, length);
        Keep(ref run);
        return true;
    }

    private void Keep(ref PlainRun run) => run = run with { Keeper = _keeper, Token = _epochs.Enter() };
}
