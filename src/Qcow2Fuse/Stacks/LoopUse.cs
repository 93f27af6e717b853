// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Loop;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Mounts;

namespace Qcow2Fuse.Stacks;

/// <summary>
/// The loop devices on files of a mount, and whether anything stands on them: then the kernel holds what was written
/// there, and loses it if the daemon goes first. To be had while the mount has a place, as the devices tell their files
/// by paths.
/// </summary>
internal sealed class LoopUse : IDisposable
{
    private const string Swaps = "/proc/swaps";

    private readonly IReadOnlyList<LoopEntry> _loops;
    private StartedProgram? _unmounting;

    private LoopUse(IReadOnlyList<LoopEntry> loops) => _loops = loops;

    /// <summary>Looks at all loop devices.</summary>
    /// <param name="mountPoint">An absolute path without symbolic links.</param>
    public static LoopUse Of(string mountPoint) => new(
        [.. LoopTable.Read().Where(loop => Stack.IsIn(loop.BackingFile, mountPoint))]);

    /// <summary>Whether there are any.</summary>
    public bool Exist => _loops.Count > 0;

    /// <summary>
    /// Whether a file system in this mount namespace, swap space, or another device is on one of them or on a partition
    /// of it, or is being unmounted. Asks nothing of the devices.
    /// </summary>
    public bool IsInUse()
    {
        if (_loops.Count == 0)
            return false;

        // A file system has no place any more while it is still written out.
        if (_unmounting is { } unmounting && !unmounting.WaitUntilOver(TimeSpan.Zero))
            return true;
        IReadOnlyList<MountEntry> table = MountTable.Read();
        string[] swaps = File.Exists(Swaps) ? File.ReadAllLines(Swaps) : [];
        return _loops.Any(loop =>
            Stack.MountsOf(loop, table).Count > 0
            || swaps.Any(line => line.StartsWith(loop.Path, StringComparison.Ordinal)
                && line.Length > loop.Path.Length && line[loop.Path.Length] is (' ' or '\t' or 'p'))
            || HasHolders("/sys/block/" + Path.GetFileName(loop.Path)));
    }

    /// <summary>
    /// Has the program, started anew, take away the file systems on them that nobody uses any more. At a shutdown
    /// nobody else does it in time: a service manager ends services before it unmounts. Another process, because this
    /// one has to serve what is written out then. Does not wait; to be called again until none is left.
    /// </summary>
    public void BeginUnmount()
    {
        if (_unmounting is { } before)
        {
            if (!before.WaitUntilOver(TimeSpan.Zero))
                return;
            _ = before.Wait();
            before.Dispose();
            _unmounting = null;
        }

        IReadOnlyList<MountEntry> table = MountTable.Read();
        MountEntry[] mounts = [.. _loops.SelectMany(loop => Stack.MountsOf(loop, table)).Reverse()];
        if (mounts.Length == 0)
            return;

        // By their numbers: umount(8) follows names, which a user may have exchanged. By way of /proc, since the file
        // may have been replaced since this process began.
        ProgramStart start = new() { Path = "/proc/self/exe", Arguments = NumberedUnmount.WordsOf(mounts) };
        _ = StartedProgram.TryStart(start, out _unmounting);
    }

    /// <inheritdoc/>
    public void Dispose() => _unmounting?.Dispose();

    /// <summary>Whether the device mapper or such has the device, or a partition of it.</summary>
    private static bool HasHolders(string directory)
    {
        try
        {
            string name = Path.GetFileName(directory);
            return Directory.EnumerateFileSystemEntries(directory + "/holders").Any()
                || Directory.EnumerateDirectories(directory, name + "p*").Any(static partition =>
                    Directory.EnumerateFileSystemEntries(partition + "/holders").Any());
        }
        catch (IOException)
        {
            // The device has gone.
            return false;
        }
    }
}
