// SPDX-License-Identifier: MIT
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>
/// The top of a mount: the files of all images and, found but not listed, <c>.qcow2fuse</c> with metrics and a
/// directory for each image.
/// </summary>
internal sealed class RootDirectory(TreeContext context, ImageSet images) : DirectoryNode(context)
{
    /// <summary>Name of the hidden directory.</summary>
    public const string HiddenName = ".qcow2fuse";

    private HiddenDirectory? _hidden;

    /// <summary>Puts the root of a mount into the empty node table.</summary>
    public static RootDirectory Create(TreeContext context, ImageSet images)
    {
        RootDirectory root = context.Nodes.Add(new RootDirectory(context, images));
        TextFileNode metrics = context.Nodes.Add(
            new TextFileNode(context, _ => MetricsText.Lines(images.OneByOne())), "metrics");
        root._hidden = context.Nodes.Add(new HiddenDirectory(context, images, metrics), "hidden");
        return root;
    }

    /// <inheritdoc/>
    /// <remarks>Images are looked for, and looked into for their partitions.</remarks>
    public override bool MayTakeLong => images.LooksLong || (images.IsDirectory && Context.Settings.Partitions);

    /// <inheritdoc/>
    public override TreeNode? Find(string name)
    {
        if (string.Equals(name, HiddenName, StringComparison.Ordinal))
            return _hidden;
        LookPatience patience = new();
        foreach (ImageNodes image in images.WithFile(name))
        {
            if (image.Find(name, patience) is { } file)
                return file;
        }

        return null;
    }

    /// <inheritdoc/>
    public override void List(List<DirectoryEntry> entries)
    {
        LookPatience patience = new();
        foreach (ImageNodes image in images.Current())
            image.List(entries, patience);
    }

    /// <summary><c>.qcow2fuse</c>.</summary>
    private sealed class HiddenDirectory(TreeContext context, ImageSet images, TextFileNode metrics)
        : DirectoryNode(context)
    {
        private const string MetricsName = "metrics";

        public override bool MayTakeLong => images.LooksLong;

        public override TreeNode? Find(string name)
        {
            if (images.WithName(name) is { } image)
                return image.Details;
            return string.Equals(name, MetricsName, StringComparison.Ordinal) ? metrics : null;
        }

        public override void List(List<DirectoryEntry> entries) => List(entries, static image => image.KnownDetails);

        public override void Recall(List<DirectoryEntry> entries) => List(entries, static image => image.Details);

        private void List(List<DirectoryEntry> entries, Func<ImageNodes, TreeNode?> detailsOf)
        {
            bool isHidden = false;
            foreach (ImageNodes image in images.Current())
            {
                entries.Add(new DirectoryEntry(image.Name, detailsOf(image)));
                isHidden |= string.Equals(image.Name, MetricsName, StringComparison.Ordinal);
            }

            if (!isHidden)
                entries.Add(new DirectoryEntry(MetricsName, metrics));
        }
    }
}
