// SPDX-License-Identifier: MIT
using System.Text.Json.Serialization.Metadata;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Control.Client;

/// <summary>An image that a daemon of this program has mounted, as seen by a command that wants to work on it.
/// </summary>
internal sealed class RunningImage : IDisposable
{
    private const int ReadDevice = OpenFlags.ReadOnly | OpenFlags.NonBlocking | OpenFlags.CloseOnExec;

    private readonly ControlClient _client;
    private readonly DaemonMount _mount;
    private readonly MountedImageReport _image;
    private readonly string _source;
    private readonly string _name;

    private RunningImage(
        ControlClient client, DaemonMount mount, MountReport report, MountedImageReport image, string name)
    {
        _client = client;
        _mount = mount;
        _image = image;
        _source = report.Source;
        _name = name;
    }

    /// <summary>Its path as the daemon has it.</summary>
    public string Path => _image.Image;

    /// <summary>Where it is mounted.</summary>
    public string MountPoint => _mount.Entry.MountPoint;

    /// <summary>The daemon.</summary>
    public int Process => _client.Process;

    /// <summary>Whether the mount shows a directory of images.</summary>
    public bool IsOneOfMany => !string.Equals(_source, _image.Image, StringComparison.Ordinal);

    /// <summary>
    /// Works on the file of an image, or, where that is locked because the image is mounted, through its daemon.
    /// </summary>
    /// <param name="path">The image as the user named it.</param>
    /// <param name="offline">Works on the file; returns the exit code.</param>
    /// <param name="mounted">Works through the daemon; returns the exit code.</param>
    public static int OrElse(string path, Func<int> offline, Func<RunningImage, int> mounted)
    {
        // The file that is meant is the one that has the name now, whatever has it when the lock is seen.
        FileIdentity? identity = FileIdentity.At(path);
        try
        {
            return offline();
        }
        catch (Exception exception) when (IsLocked(exception))
        {
            using RunningImage? running = identity is { } meant ? Find(meant, path) : null;
            if (running is null)
                throw;
            return mounted(running);
        }
    }

    /// <summary>The image of a path, if a daemon that can be controlled has it mounted; else null.</summary>
    public static RunningImage? Find(string path)
    {
        return FileIdentity.At(path) is { } identity ? Find(identity, path) : null;
    }

    private static RunningImage? Find(FileIdentity identity, string path)
    {
        RunningImage? found = null;
        foreach (DaemonSocket socket in DaemonSocket.FindAll())
        {
            // A daemon that has not opened the image is not woken.
            if (found is not null || !OpenFiles.MayHaveOpen(socket.Process, identity))
                socket.Dispose();
            else
                found = Ask(socket, identity, path);
        }

        return found;
    }

    /// <summary>The image as a daemon has it, in a mount that the kernel knows as this daemon's; else null.</summary>
    private static RunningImage? Ask(DaemonSocket socket, FileIdentity identity, string path)
    {
        ControlClient client = new(socket);
        foreach (MountReport report in client.TryGetMounts()?.Mounts ?? [])
        {
            if (report.Images.FirstOrDefault(
                    one => one.Device == identity.Device && one.Inode == identity.Inode) is { } image
                && DaemonMount.Find(report) is { } mount)
            {
                return new RunningImage(client, mount, report, image, path);
            }
        }

        client.Dispose();
        return null;
    }

    /// <summary>
    /// Has the kernel write out what it holds of the disk: file systems on loop devices over the raw file, the loop
    /// devices, and the mount itself. The daemon must not do that: it would wait for itself.
    /// </summary>
    /// <param name="failure">Exit code of the command where something cannot be flushed.</param>
    /// <exception cref="CommandException">Something cannot be flushed; what the image holds would be incomplete.
    /// </exception>
    public void FlushKernel(int failure = ExitCode.Failure)
    {
        if (_image.IsReadOnly)
            return;
        foreach (StackedLoop loop in Stack.ReadAll().Where(stack => stack.ProcessId == Process)
            .SelectMany(static stack => stack.Loops))
        {
            foreach (MountEntry mount in loop.Mounts)
                Flush(mount.MountPoint, MountRoot.Reopen(mount, OpenFlags.ReadOnly), LinuxFile.SyncFileSystem, failure);
            Flush(loop.Loop.Path, LinuxFile.Open(loop.Loop.Path, ReadDevice), LinuxFile.DataSync, failure);
        }

        Flush(MountPoint, _mount.Open(OpenFlags.ReadOnly), LinuxFile.SyncFileSystem, failure);
        Flush(RawFile, _mount.OpenRawFile(_image, OpenFlags.ReadOnly), LinuxFile.DataSync, failure);
    }

    /// <summary>Has a verb done, and prints what the command would have printed.</summary>
    /// <param name="verb">Name of the verb.</param>
    /// <param name="call">What to do.</param>
    /// <param name="type">The call's JSON form.</param>
    /// <param name="failure">Exit code of the command where the daemon does not answer.</param>
    /// <returns>The exit code.</returns>
    /// <exception cref="CommandException">It failed.</exception>
    public int Do<TCall>(string verb, TCall call, JsonTypeInfo<TCall> type, int failure = ExitCode.Failure)
    {
        ControlAnswer answer = _client.Call(verb, call, type, _name, failure);
        foreach (string message in answer.Messages ?? [])
            StandardError.WriteLine(message);
        StandardOutput.WriteLines(answer.Output);
        if (answer.Error is { } error)
            throw new CommandException(answer.ExitCode, error, answer.Hint);
        return answer.ExitCode;
    }

    /// <inheritdoc/>
    public void Dispose() => _client.Dispose();

    private static bool IsLocked(Exception exception) =>
        (exception as BlockException ?? exception.InnerException as BlockException)?.Kind == BlockErrorKind.Locked;

    /// <summary>The raw file in messages.</summary>
    private string RawFile => Printable.Text(System.IO.Path.Combine(MountPoint, DaemonMount.NameOf(_image)));

    /// <summary>Flushes and closes what was opened, or says why it could not be.</summary>
    private void Flush(string path, int descriptor, Func<int, int> flush, int failure)
    {
        int result = descriptor;
        if (descriptor >= 0)
        {
            result = flush(descriptor);
            _ = LinuxFile.Close(descriptor);
        }

        if (result < 0)
        {
            throw new CommandException(
                failure,
                $"{Printable.Text(_name)}: {Printable.Text(path)} cannot be flushed first: {Errno.Text(-result)}");
        }
    }
}
