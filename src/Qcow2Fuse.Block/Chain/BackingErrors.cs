// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Block.Chain;

/// <summary>What is said when a backing file cannot be opened.</summary>
internal static class BackingErrors
{
    /// <summary>The last of <paramref name="layers"/> has a backing file that is not there.</summary>
    public static BlockException Missing(
        IReadOnlyList<ImageLayer> layers, string name, string format, BlockException cause)
    {
        string image = layers[^1].Path;
        string chain = string.Join(" <- ", layers.Select(static layer => Printable.Text(FileName(layer.Path))));
        return new BlockException(
            BlockErrorKind.NotFound,
            $"{Printable.Text(image)}: the backing file '{Printable.Text(name)}' is missing "
                + $"({chain} <- {Printable.Text(FileName(name))} \u2717)",
            cause,
            new(FailureCode.BackingMissing) { File = image, Name = format, Layer = layers.Count - 1 });
    }

    /// <summary>The image does not state the format of its backing file <paramref name="name"/>.</summary>
    public static BlockException FormatUnknown(string image, string name, int layer) =>
        new(BlockErrorKind.Policy,
            $"{Printable.Text(image)}: does not state the format of its backing file '{Printable.Text(name)}', "
                + "and formats are not guessed",
            cause: new(FailureCode.BackingFormatUnstated) { File = image, Name = name, Layer = layer });

    private static string FileName(string path) => path[(path.LastIndexOf('/') + 1)..];
}
