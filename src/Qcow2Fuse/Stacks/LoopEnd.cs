// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Loop;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Stacks;

/// <summary>
/// The end of a loop device on a raw file. What was written to it may be in the kernel still, and nobody else hears
/// that it cannot be stored: a close, umount(2) and LOOP_CLR_FD succeed all the same.
/// </summary>
internal static class LoopEnd
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(20);

    /// <summary>
    /// Waits until a device shows its file no more. Programs that look at every new device, as udev's do, have it open
    /// for a moment.
    /// </summary>
    /// <returns>False where somebody else has it open.</returns>
    public static bool HasLetGo(LoopEntry loop)
    {
        Stopwatch waited = Stopwatch.StartNew();
        while (LoopTable.Find(loop.Number)?.BackingFile == loop.BackingFile)
        {
            if (waited.Elapsed > Patience)
                return false;
            Thread.Sleep(Period);
        }

        return true;
    }

    /// <summary>Has the kernel write all that it has for a device.</summary>
    /// <param name="device">A descriptor of the device, open since before the last writes, or newly opened.</param>
    /// <param name="name">What is said to be not stored.</param>
    /// <param name="consequence">What becomes of it, as half a sentence.</param>
    /// <param name="failure">The exit code then.</param>
    /// <param name="hint">What can be done then; null for nothing.</param>
    /// <exception cref="CommandException">It cannot be stored.</exception>
    public static void WriteOut(int device, string name, string consequence, int failure, string? hint = null)
    {
        int result = LinuxFile.DataSync(device);
        if (result < 0)
        {
            throw new CommandException(
                failure, $"{name}: not all that was written could be stored: {Errno.Text(-result)}; {consequence}",
                hint);
        }
    }

    /// <summary>Unmounts a file system on a device, after everything in it was written.</summary>
    /// <param name="mount">Its mount.</param>
    /// <param name="loop">The device.</param>
    /// <returns>What umount(2) says: 0, or −errno; see <see cref="MountRoot.Unmount"/>.</returns>
    /// <exception cref="CommandException">Not all of it can be written. If that is seen before, it stays mounted.
    /// </exception>
    public static int Unmount(MountEntry mount, LoopEntry loop)
    {
        WriteFileSystem(mount);
        int device = LinuxFile.Open(loop.Path, OpenFlags.ReadOnly | OpenFlags.CloseOnExec);
        try
        {
            int result = MountRoot.Unmount(mount, lazy: false);
            if (result == 0 && device >= 0)
                WriteOut(device, mount.MountPoint, "it is unmounted", ExitCode.System);
            return result;
        }
        finally
        {
            if (device >= 0)
                _ = LinuxFile.Close(device);
        }
    }

    /// <summary>Waits until the device of a file system that was unmounted has let go of the image.</summary>
    /// <exception cref="CommandException">Somebody keeps it.</exception>
    public static void RequireFree(string directory, string image, LoopEntry loop)
    {
        IReadOnlyList<MountEntry> others = Stack.MountsOf(loop, MountTable.Read());
        if (others.Count > 0 && LoopTable.Find(loop.Number)?.BackingFile == loop.BackingFile)
        {
            throw new CommandException(
                ExitCode.System,
                $"{directory}: is unmounted here, but still mounted on "
                + string.Join(", ", others.Select(static mount => mount.MountPoint)),
                Advice.ToUnmount(others[0].MountPoint));
        }

        if (!HasLetGo(loop))
        {
            throw new CommandException(
                ExitCode.System,
                $"{directory}: is unmounted, but somebody has {loop.Path} open; {image} is in use until it is closed");
        }
    }

    private static void WriteFileSystem(MountEntry mount)
    {
        int root = MountRoot.Reopen(mount, OpenFlags.ReadOnly | OpenFlags.NonBlocking);
        if (root < 0)
            return;
        int result = LinuxFile.SyncFileSystem(root);
        _ = LinuxFile.Close(root);
        if (result < 0)
        {
            throw new CommandException(
                ExitCode.System,
                $"{mount.MountPoint}: not all that was written could be stored: {Errno.Text(-result)}; "
                + "it stays mounted",
                Advice.ToDetach(mount.MountPoint));
        }
    }
}
