// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Hosting.Tree;

/// <summary>Where a directory of images can be mounted, and where not.</summary>
internal static class DirectoryPlace
{
    /// <summary>Refuses a file as mount point: image and mount point may have changed places.</summary>
    /// <exception cref="CommandException">The mount point is a file.</exception>
    public static void RefuseOnFile(string mountPoint, string source)
    {
        if (LinuxPath.IsFile(mountPoint))
            throw OnFile(source);
    }

    /// <summary>
    /// Refuses a mount point that covers the directory: the images could not be reached any more, and the process
    /// that serves a mount must not enter it.
    /// </summary>
    /// <exception cref="CommandException">The mount point is the directory itself or lies above it.</exception>
    public static void RefuseUnder(string mountPoint, string source)
    {
        string covering = RealPath(mountPoint);
        string covered = RealPath(source);
        if (string.Equals(covering, covered, StringComparison.Ordinal)
            || covered.StartsWith(covering.TrimEnd('/') + "/", StringComparison.Ordinal))
        {
            throw new CommandException(
                ExitCode.MountFailed,
                $"{Printable.Text(source)}: would be covered by the mount",
                "choose a directory outside it as mount point");
        }
    }

    /// <summary>The refusal of a file as mount point.</summary>
    public static CommandException OnFile(string source) => new(
        ExitCode.MountFailed,
        $"{Printable.Text(source)}: is a directory and cannot be mounted on a file",
        "the image comes first: qcow2fuse mount IMAGE DIR");

    /// <summary>The path without symbolic links; as it is where it cannot be opened.</summary>
    private static string RealPath(string path)
    {
        int descriptor = LinuxFile.Open(path, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (descriptor < 0)
            return path;
        try
        {
            string link = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{descriptor}");
            return LinuxPath.LinkTarget(link) ?? path;
        }
        finally
        {
            _ = LinuxFile.Close(descriptor);
        }
    }
}
