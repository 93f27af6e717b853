// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Metadata;

/// <summary>From where on the allocator looks for free clusters; freeing lowers it.</summary>
/// <remarks>All methods are called with the image's gate held and do not release it.</remarks>
internal sealed class FreeHints
{
    /// <summary>Nothing below is free.</summary>
    private long _hint;

    /// <summary>Below there may be free clusters, but not several in a row that are worth another search.</summary>
    private long _runHint;

    /// <summary>The first cluster freed while the allocation under way had released the gate.</summary>
    private long _freedFrom;

    /// <summary>Begins a search, one at a time; returns where.</summary>
    public long BeginSearch(bool isForOne)
    {
        _freedFrom = long.MaxValue;
        return isForOne ? _hint : _runHint;
    }

    /// <summary>
    /// Ends a search that has found clusters up to <paramref name="next"/>. One for a single cluster tells that nothing
    /// is free before; one for several may pass free ones.
    /// </summary>
    public void EndSearch(long from, long next, bool isForOne, bool hasSkipped)
    {
        next = Math.Min(next, _freedFrom);
        if (isForOne || (!hasSkipped && from == _hint))
            _hint = next;
        _runHint = isForOne ? Math.Max(_runHint, _hint) : next;
        _hint = Math.Min(_hint, _runHint);
    }

    /// <summary>Says that the refcount of <paramref name="cluster"/> has become zero.</summary>
    public void NoteFree(long cluster)
    {
        _hint = Math.Min(_hint, cluster);
        _runHint = Math.Min(_runHint, cluster);
        _freedFrom = Math.Min(_freedFrom, cluster);
    }
}
