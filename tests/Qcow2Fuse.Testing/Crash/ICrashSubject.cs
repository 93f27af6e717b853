// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>An engine under crash tests: how to make an image and how to open it.</summary>
public interface ICrashSubject
{
    /// <summary>What failures call it.</summary>
    string Name { get; }

    /// <summary>Variables that make <c>Crash_states_of_one_seed</c> use this subject, <c>NAME=value ...</c>.</summary>
    string Environment => string.Empty;

    /// <summary>What else the images and the workload have.</summary>
    CrashFeatures Features => CrashFeatures.None;

    /// <summary>Whether an image that was closed without a crash has no leaked clusters.</summary>
    bool LeaksNothing { get; }

    /// <summary>Whether the engine can work on a kind of image.</summary>
    bool Supports(ImageKind kind);

    /// <summary>
    /// Writes an empty image of <paramref name="kind"/> into <paramref name="file"/>. Where the kind has a backing
    /// file, the image names <c>backing.raw</c> of format <c>raw</c>.
    /// </summary>
    void Create(BlockDevice file, ImageKind kind);

    /// <summary>
    /// Opens the image for writing. The device owns the arguments; the backing device is null where there is none, and
    /// so is the data file, which there is with <see cref="CrashFeatures.Data"/>.
    /// </summary>
    BlockDevice Open(BlockDevice file, BlockDevice? backing, BlockDevice? data);

    /// <summary>Decrypts the guest's data of an image that was created here; null where it is not encrypted.</summary>
    PlainCipher? CipherOf(ByteImage image) => null;
}
