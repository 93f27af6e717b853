// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block.Caching;

/// <summary>A table that a <see cref="TableCache"/> holds, or a free place for one.</summary>
internal unsafe struct TableEntry
{
    /// <summary>Where the table lies on the device; −1 for a free place.</summary>
    public long Offset;

    /// <summary>The frozen content, where the table was modified after it was frozen; else null.</summary>
    public byte* PreImage;

    /// <summary>Neighbours in the order of use, or the next free entry in <see cref="Newer"/>.</summary>
    public int Older;
    public int Newer;

    /// <summary>How many callers hold the table.</summary>
    public int Pins;

    /// <summary>The period between two calls of <see cref="TableCache.DropIdle"/> in which it was last used.</summary>
    public int LastUse;

    /// <summary>Being read; nobody but the reader may look at it.</summary>
    public bool Loading;

    /// <summary>Modified since it was frozen or written.</summary>
    public bool Dirty;

    /// <summary>Belongs to the set that <see cref="TableCache.WriteFrozen"/> writes.</summary>
    public bool Frozen;

    /// <summary>Whether nobody uses the table now, and the device has its content.</summary>
    public readonly bool IsIdle => Offset >= 0 && Pins == 0 && !Loading && !Dirty && !Frozen;
}
