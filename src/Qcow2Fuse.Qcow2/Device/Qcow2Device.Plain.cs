// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Mapping;

namespace Qcow2Fuse.Qcow2.Device;

/// <summary>Requests that are one transfer in the data file, for callers that do it themselves and must not wait.
/// </summary>
/// <remarks>
/// The lookup and the epoch are those of <see cref="ReadGuest"/> and <see cref="WritePart"/>, in one critical section
/// too; only the transfer is somebody else's. Whatever needs more than that, an encrypted or compressed cluster, a
/// table that is not in memory, an allocation, the first write, is refused.
/// </remarks>
public sealed partial class Qcow2Device
{
    /// <summary>Who holds the gate may be writing a table, and the caller serves others meanwhile.</summary>
    private const int PlainPatienceMilliseconds = 1;

    private enum PlainPlace
    {
        None,
        Here,
        Backing,
    }

    /// <inheritdoc/>
    public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
    {
        run = default;
        if (_target is not null || _guestData.IsEncrypted || offset < 0 || length <= 0 || offset > Length - length)
            return false;
        PlainPlace place = PlainPlace.None;
        if (!_gate.TryEnter(PlainPatienceMilliseconds, out ImageGate.Held held))
            return false;
        try
        {
            if (isWrite)
                place = TryBeginOverwrite(offset, length, out run) ? PlainPlace.Here : PlainPlace.None;
            else
                place = BeginPlainRead(offset, length, out run);
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

        return place == PlainPlace.Backing
            ? Backing!.TryBeginPlain(offset, length, isWrite: false, out run)
            : place == PlainPlace.Here;
    }

    /// <inheritdoc/>
    public override void EndPlain(in PlainRun run)
    {
        if (!ReferenceEquals(run.Keeper, this))
        {
            Backing!.EndPlain(run);
            return;
        }

        _data.EndPlain(run);
        _caches.Epochs.Exit(run.Token);
    }

    private PlainPlace BeginPlainRead(long offset, int length, out PlainRun run)
    {
        run = default;
        if (!_map.TryLookup(new GuestOffset(offset), length, out ReadMapping mapping) || mapping.Length < length)
            return PlainPlace.None;
        bool isUnallocated = mapping.Kind == MappingKind.Unallocated;
        if (isUnallocated && Backing is not null && offset <= Backing.Length - length)
            return PlainPlace.Backing;
        if (mapping.Kind == MappingKind.Zero || (isUnallocated && (Backing is null || offset >= Backing.Length)))
            run = new PlainRun { Descriptor = PlainRun.Zeroes, Offset = 0 };
        else if (mapping.Kind != MappingKind.Data
            || !_data.TryBeginPlain(mapping.Host.Value, length, isWrite: false, out run))
            return PlainPlace.None;
        Keep(ref run);
        return PlainPlace.Here;
    }

    private bool TryBeginOverwrite(long offset, int length, out PlainRun run)
    {
        run = default;
        bool isReady = !IsReadOnly && _mayWrite && !_foundCorrupt && _caches.HasGuard && !_caches.HasFailed;

        // In clusters smaller than the blocks of O_DIRECT a table could share a block with the data.
        bool isAlone = _geometry.ClusterSize >= _data.Limits.RequestAlignment;
        if (!isReady || !isAlone || !_map.TryOverwrite(new GuestOffset(offset), length, out HostOffset host)
            || !_data.TryBeginPlain(host.Value, length, isWrite: true, out run))
            return false;
        MarkChange(offset, length);
        Keep(ref run);
        return true;
    }

    private void Keep(ref PlainRun run) => run = run with { Keeper = this, Token = _caches.Epochs.Enter() };
}
