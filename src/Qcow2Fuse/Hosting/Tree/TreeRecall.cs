// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>
/// Makes all nodes of a mount that goes on. The kernel knows their numbers from the earlier process and asks for them
/// without a lookup.
/// </summary>
internal static class TreeRecall
{
    private const ulong RootNumber = 1;

    /// <summary>Walks through the whole tree. A directory that cannot be read is left out.</summary>
    public static void Run(TreeContext context)
    {
        if (!context.Nodes.TryGet(RootNumber, out TreeNode? root) || root is not DirectoryNode top)
            return;
        Queue<DirectoryNode> left = new([top]);
        if (top.Find(RootDirectory.HiddenName) is DirectoryNode hidden)
            left.Enqueue(hidden);
        while (left.TryDequeue(out DirectoryNode? directory))
        {
            List<DirectoryEntry> entries = [];
            try
            {
                directory.Recall(entries);
            }
            catch (BlockException exception)
            {
                HostLog.OpenMessage(context.Logger, exception.Message);
            }

            foreach (DirectoryEntry entry in entries)
            {
                _ = context.Nodes.TryGet(entry.Number, out TreeNode? node);
                if (node is DirectoryNode next)
                    left.Enqueue(next);
                else if (node is RawFileNode file)
                    file.Pages.Recall(context.WrittenNodes?.MayContain(file.Number) == true);
            }
        }
    }
}
