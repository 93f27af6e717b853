// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>A header extension as it lies in the image; specification section "Header extensions".</summary>
/// <param name="Type">What it is; types not listed here are kept as they are.</param>
/// <param name="Content">Its bytes without the padding to a multiple of eight.</param>
public sealed record HeaderExtension(uint Type, ReadOnlyMemory<byte> Content)
{
    /// <summary>Ends the list.</summary>
    public const uint End = 0;

    /// <summary>Name of the backing file's format.</summary>
    public const uint BackingFormat = 0xe2792aca;

    /// <summary>Names of feature bits.</summary>
    public const uint FeatureNames = 0x6803f857;

    /// <summary>Name of the external data file.</summary>
    public const uint DataFile = 0x44415441;

    /// <summary>Number and place of persistent bitmaps.</summary>
    public const uint Bitmaps = 0x23852875;

    /// <summary>Place of the LUKS header.</summary>
    public const uint Crypto = 0x0537be77;
}
