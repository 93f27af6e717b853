// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Stacks;

/// <summary>
/// The end of a daemon, for a command that takes its mount away: umount(2) returns before the daemon has written
/// everything. To be had before the mount goes, because afterwards nothing leads to the daemon.
/// </summary>
internal sealed class DaemonEnd : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    private readonly WatchedProcess _process;
    private readonly int _word;

    /// <summary>Where its mount was.</summary>
    private readonly IReadOnlyList<MountEntry> _places;

    private DaemonEnd(WatchedProcess process, int word, IReadOnlyList<MountEntry> places)
    {
        _process = process;
        _word = word;
        _places = places;
    }

    /// <summary>Watches the daemon of a mount; null where it has ended already.</summary>
    /// <param name="process">The process that serves the mount.</param>
    public static DaemonEnd? Watch(int process)
    {
        if (WatchedProcess.Open(process) is not { } watched)
            return null;
        string? number = DaemonTable.WordOf(process);
        int word = number is null ? -1 : LastWord.Open(process, number);
        return new DaemonEnd(watched, word, DaemonTable.PlacesOf(process, word));
    }

    /// <summary>Waits until everything is written and the image is free.</summary>
    /// <param name="name">The image or the mount, in messages.</param>
    /// <param name="failure">Exit code of the command where something may be lost, or takes too long.</param>
    /// <exception cref="CommandException">Something may be lost, it is still mounted elsewhere, or it has not ended
    /// after five minutes.</exception>
    public void Wait(string name, int failure)
    {
        RequireUnmounted(name, failure);
        if (!_process.WaitUntilOver(Patience))
        {
            throw new CommandException(
                failure, $"{name}: is unmounted, but its daemon (pid {_process.Id}) has not ended after 5 minutes");
        }

        // A daemon that lets nobody look at it says nothing here.
        if (_word < 0)
            return;
        switch (LastWord.Read(_word, out _, out string reason))
        {
            case LastWordKind.Lost:
                throw new CommandException(
                    failure, $"{name}: the last flush failed, written data may be lost: {reason}");
            case LastWordKind.None:
                throw Died(name, _process.Id, failure);
        }
    }

    /// <summary>
    /// To be called after an unmount that is to be the end: a mount that is seen at several places has it at the last
    /// of them. A daemon that unmounts by itself is not asked.
    /// </summary>
    private void RequireUnmounted(string name, int failure)
    {
        string[] left = [.. MountTable.Read().Where(entry => _places.Any(entry.IsSameMount))
            .Select(static entry => entry.MountPoint)];
        if (left.Length > 0 && left.Length < _places.Count)
        {
            throw new CommandException(
                failure, $"{name}: is unmounted here, but still mounted on {string.Join(", ", left)}",
                Advice.ToUnmount(left[0]));
        }
    }

    /// <summary>What there is to say of a daemon that has ended without a word.</summary>
    public static CommandException Died(string name, int process, int failure) =>
        new(failure, $"{name}: its daemon (pid {process}) died, written data may be lost");

    /// <inheritdoc/>
    public void Dispose()
    {
        _process.Dispose();
        if (_word >= 0)
            _ = LinuxFile.Close(_word);
    }
}
