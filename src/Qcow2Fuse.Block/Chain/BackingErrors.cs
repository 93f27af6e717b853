// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Block;

/// <summary>What is said when a backing file cannot be opened, with the command that repairs the chain.</summary>
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
            $"if it moved: {Rebase(image, "NEW", format)}");
    }

    /// <summary>The image does not state the format of its backing file <paramref name="name"/>.</summary>
    public static BlockException FormatUnknown(string image, string name) =>
        new(BlockErrorKind.Policy,
            $"{Printable.Text(image)}: does not state the format of its backing file '{Printable.Text(name)}', "
                + "and formats are not guessed",
            hint: $"add --backing-format raw (or qcow2), or store it: {Rebase(image, name, "raw")}");

    private static string Rebase(string image, string name, string format) =>
        $"qemu-img rebase -u -b {Word(name)} -F {Word(format)} {Word(image)}";

    /// <summary><paramref name="text"/> as one word of a shell command, as far as it can be shown.</summary>
    private static string Word(string text)
    {
        string shown = Printable.Text(text);
        bool plain = shown.Length > 0
            && shown.All(static c => char.IsAsciiLetterOrDigit(c) || "/._-+=:@%,".Contains(c));
        return plain ? shown : $"'{shown.Replace("'", "'\\''", StringComparison.Ordinal)}'";
    }

    private static string FileName(string path) => path[(path.LastIndexOf('/') + 1)..];
}
