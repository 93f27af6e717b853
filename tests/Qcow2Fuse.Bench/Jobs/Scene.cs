// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Bench;

/// <summary>What image a job works on. Every subject gets the same one.</summary>
public enum Scene
{
    /// <summary>Every cluster allocated, in order.</summary>
    Full,

    /// <summary>Nothing allocated; made anew for every run.</summary>
    Empty,

    /// <summary>
    /// As <see cref="Empty"/>, so large that nearly every random write meets a cluster that is not allocated.
    /// </summary>
    Wide,

    /// <summary>As <see cref="Wide"/>, with extended L2 entries.</summary>
    WideExtended,

    /// <summary>An empty overlay of a full image; made anew for every run.</summary>
    Overlay,

    /// <summary>As <see cref="Overlay"/>, with extended L2 entries.</summary>
    OverlayExtended,

    /// <summary>Every cluster compressed with zlib.</summary>
    Zlib,

    /// <summary>Every cluster compressed with zstd.</summary>
    Zstd,

    /// <summary>One TiB, every cluster mapped to a hole of the image file.</summary>
    Huge,

    /// <summary>Fifty empty overlays above a full image.</summary>
    Chain,
}
