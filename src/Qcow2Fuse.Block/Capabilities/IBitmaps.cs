// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Capabilities;

/// <summary>An open image that keeps bitmaps of what was written to its disk inside.</summary>
public interface IBitmaps
{
    /// <summary>The bitmaps of the image in the order of its directory.</summary>
    /// <exception cref="BlockException">The directory is damaged.</exception>
    IReadOnlyList<BitmapInfo> Bitmaps { get; }

    /// <summary>Adds an empty bitmap. Durable on return.</summary>
    /// <param name="name">Its name, not used yet.</param>
    /// <param name="granularity">Bytes per bit, a power of two; 0 for the default of the format.</param>
    /// <param name="enabled">It records all writes that begin after this returns.</param>
    /// <exception cref="BlockException">It cannot be added; the image is as it was.</exception>
    void AddBitmap(string name, long granularity, bool enabled);

    /// <summary>Removes a bitmap, an inconsistent one too. Durable on return.</summary>
    /// <exception cref="BlockException">There is no such bitmap, or the storage fails.</exception>
    void RemoveBitmap(string name);

    /// <summary>Makes a bitmap empty.</summary>
    /// <exception cref="BlockException">There is no such bitmap that can be used, or the storage fails.</exception>
    void ClearBitmap(string name);

    /// <summary>Lets a bitmap record all writes that begin after this returns. Durable on return.</summary>
    /// <exception cref="BlockException">There is no such bitmap that can be used, or the storage fails.</exception>
    void EnableBitmap(string name);

    /// <summary>Stops a bitmap from recording. Durable on return, with its content.</summary>
    /// <exception cref="BlockException">There is no such bitmap that can be used, or the storage fails.</exception>
    void DisableBitmap(string name);

    /// <summary>Sets in <paramref name="target"/> what is set in <paramref name="source"/>.</summary>
    /// <exception cref="BlockException">One of them cannot be used, or the storage fails.</exception>
    void MergeBitmap(string source, string target);

    /// <summary>Sets in <paramref name="target"/> what is set in a bitmap of another image of the same size.</summary>
    /// <exception cref="BlockException">
    /// One of them cannot be used, the other image is of another format or size, or the storage fails.
    /// </exception>
    void MergeBitmap(IBitmaps sourceImage, string source, string target);
}
