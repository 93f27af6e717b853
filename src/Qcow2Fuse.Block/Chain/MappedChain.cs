// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;

namespace Qcow2Fuse.Block.Chain;

/// <summary>
/// The layers below the top of a chain, with a map of them: a read goes straight to the layer that answers, where the
/// chain alone would ask each layer for the next one.
/// </summary>
/// <remarks>
/// <para>
/// The map says for a granule of the disk that every layer above a certain one stores nothing of it and reaches to its
/// end. It is never corrected, so it is made only over layers that are all read-only: nobody in this process can change
/// what they store then, and their locks keep other programs away. The layer that answers is asked as ever, and takes
/// its own lock and epoch.
/// </para>
/// <para>
/// What the map cannot say, a granule of which several layers store parts, or one with a damaged table, is read through
/// the chain, which also reports what is wrong.
/// </para>
/// </remarks>
internal sealed class MappedChain : FilterDevice
{
    /// <summary>Runs of a layer that are looked at before a granule counts as mixed; a larger one may be asked for
    /// again in smaller granules.</summary>
    private const int RunsMax = 32;

    private readonly BlockDevice[] _layers;
    private readonly ChainMap _map;

    private MappedChain(BlockDevice[] layers)
        : base(layers[0])
    {
        _layers = layers;
        _map = new ChainMap(layers[0].Length);
    }

    /// <summary>
    /// The device to ask what a range is: the layer that answers for the part of it that is left, and its depth in the
    /// chain; or this one, where the map cannot say or the range is larger than a granule.
    /// </summary>
    public BlockDevice Answering(long offset, ref long length, ref int depth)
    {
        if (length > ChainMap.GranuleMax)
            return this;
        int layer = LayerOf(offset, (int)length, out int covered);
        if (layer == ChainMap.Mixed)
            return this;
        length = covered;
        depth += layer;
        return _layers[layer];
    }

    /// <summary>See <see cref="BackingChain.Mapped"/>.</summary>
    public static BlockDevice? Over(BlockDevice? lower)
    {
        List<BlockDevice> layers = [];
        for (BlockDevice? layer = lower; layer is not null; layer = BackingChain.Below(layer))
        {
            if (!layer.IsReadOnly)
                return lower;
            layers.Add(layer);
        }

        bool fits = layers.Count is >= 2 and <= ChainMap.Mixed && lower!.Length <= ChainMap.LengthMax;
        return fits ? new MappedChain([.. layers]) : lower;
    }

    /// <inheritdoc/>
    public override void Read(long offset, Span<byte> destination)
    {
        CheckRange(offset, destination.Length);
        while (!destination.IsEmpty)
        {
            int layer = LayerOf(offset, destination.Length, out int length);
            Span<byte> part = destination[..length];
            if (layer == ChainMap.Mixed)
                Child.Read(offset, part);
            else
                _layers[layer].Read(offset, part);
            destination = destination[length..];
            offset += length;
        }
    }

    /// <inheritdoc/>
    /// <remarks>Where the map knows the layer already.</remarks>
    public override bool TryBeginPlain(long offset, int length, bool isWrite, out PlainRun run)
    {
        run = default;
        if (isWrite || offset < 0 || length <= 0 || offset > Length - length)
            return false;
        int layer = ChainMap.Mixed;
        for (long at = offset; at < offset + length;)
        {
            int next = Known(at, out int level);
            if (next is ChainMap.Unknown or ChainMap.Mixed || (at > offset && next != layer))
                return false;
            layer = next;
            at = _map.EndOf(level, at);
        }

        if (!_layers[layer].TryBeginPlain(offset, length, isWrite: false, out run))
            return false;
        if (run.Keeper is null)
            run = run with { Keeper = this, Token = layer };
        return true;
    }

    /// <inheritdoc/>
    public override void EndPlain(in PlainRun run)
    {
        if (ReferenceEquals(run.Keeper, this))
            _layers[run.Token].EndPlain(run with { Keeper = null, Token = 0 });
        else
            run.Keeper!.EndPlain(run);
    }

    /// <summary>Gives up the map; what is below stays open. Nobody uses this device any more.</summary>
    public void Drop()
    {
        _map.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (disposing)
            _map.Dispose();
    }

    /// <summary>
    /// The layer that answers for the first <paramref name="covered"/> of <paramref name="length"/> bytes, or
    /// <see cref="ChainMap.Mixed"/>: that is for the chain as a whole.
    /// </summary>
    private int LayerOf(long offset, int length, out int covered)
    {
        int layer = Learned(offset, out int level);
        long at = _map.EndOf(level, offset);
        while (at < offset + length && Learned(at, out level) == layer)
            at = _map.EndOf(level, at);
        covered = (int)Math.Min(length, at - offset);
        return layer;
    }

    /// <summary>What the map knows of the largest granule at an offset that is not mixed, and its level.</summary>
    private int Known(long offset, out int level)
    {
        for (level = 0; level < ChainMap.Levels; level++)
        {
            int layer = _map.Find(level, offset);
            if (layer != ChainMap.Mixed)
                return layer;
        }

        level--;
        return ChainMap.Mixed;
    }

    /// <summary>As <see cref="Known"/>, but the layers are asked for what is not known.</summary>
    private int Learned(long offset, out int level)
    {
        for (level = 0; level < ChainMap.Levels; level++)
        {
            int layer = _map.Find(level, offset);
            if (layer == ChainMap.Unknown)
            {
                layer = Search(level, offset);
                _map.Set(level, offset, layer);
            }

            if (layer != ChainMap.Mixed)
                return layer;
        }

        level--;
        return ChainMap.Mixed;
    }

    /// <summary>The layer that answers for the whole granule of an offset, as far as the disk reaches.</summary>
    private int Search(int level, long offset)
    {
        long start = _map.StartOf(level, offset);
        long end = Math.Min(_map.EndOf(level, offset), Length);
        try
        {
            for (int layer = 0; layer < _layers.Length - 1; layer++)
            {
                bool? stored = Stores(_layers[layer], start, end);
                if (stored is not false)
                    return stored is null ? ChainMap.Mixed : layer;

                // What lies beyond the end of the next layer reads as zeroes, which this one says.
                long below = _layers[layer + 1].Length;
                if (start >= below)
                    return layer;
                if (end > below)
                    return ChainMap.Mixed;
            }

            // Whatever it is there, nobody else can answer.
            return _layers.Length - 1;
        }
        catch (BlockException)
        {
            // Maybe of a part that nobody asked for: whoever reads the damaged one is told by the chain.
            return ChainMap.Mixed;
        }
    }

    /// <summary>Whether a layer stores all of a range (true) or nothing (false); null for neither.</summary>
    private static bool? Stores(BlockDevice layer, long start, long end)
    {
        bool? stored = null;
        for (int run = 0; run < RunsMax; run++)
        {
            Extent extent = layer.GetExtent(start, end - start);
            bool isStored = extent.Kind != ExtentKind.Unallocated;
            if (stored is { } before && before != isStored)
                return null;
            stored = isStored;
            start += extent.Length;
            if (start >= end)
                return stored;
        }

        return null;
    }
}
