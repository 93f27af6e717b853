// SPDX-License-Identifier: MIT
using System.Text.Json;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Hosting.Images;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Control.Server;

/// <summary>
/// A running mount as it is controlled: what it says of itself, and its verbs. Each call runs on a thread of its own,
/// since it may wait for guests, and threads of a pool belong to all.
/// </summary>
internal sealed partial class ControlHost(
    ImageSet images, TreeContext context, FuseMount mount, FuseServer server) : IDisposable
{
    /// <summary>Version of the JSON forms; it changes when a key changes its meaning or goes.</summary>
    public const int Schema = 1;

    private const int StackSize = 1024 * 1024;

    /// <summary>How long the kernel may take to end a session whose mount has gone.</summary>
    private static readonly TimeSpan EndPatience = TimeSpan.FromMinutes(5);

    private readonly object _gate = new();
    private int _running;
    private bool _isOver;

    /// <summary>Whether requests of the kernel are served.</summary>
    public bool IsServing => !server.Ended.IsCompleted;

    /// <summary>Does something on a thread of its own.</summary>
    /// <exception cref="InvalidOperationException">The mount is coming to its end.</exception>
    public Task<T> Run<T>(Func<T> work)
    {
        TaskCompletionSource<T> done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        Thread thread = new(() => Work(work, done), StackSize) { IsBackground = true, Name = "control-work" };
        lock (_gate)
        {
            if (_isOver)
                throw new InvalidOperationException("the mount is coming to its end");
            _running++;
        }

        if (ManagedRoom.TryStart(thread))
            return done.Task;
        CountDown();
        throw new InsufficientMemoryException("there is no room for one more thread");
    }

    /// <summary>Refuses new work, and waits until what has begun is done.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _isOver = true;
            while (_running > 0)
                Monitor.Wait(_gate);
        }
    }

    /// <summary>The lines of an OpenMetrics text.</summary>
    public IEnumerable<string> Metrics() => MetricsText.Lines(images.OneByOne());

    /// <summary>What is mounted, as JSON (<see cref="MountsReport"/>).</summary>
    public string Mounts()
    {
        MountReport report = new(
            Environment.ProcessId, mount.MountPoint, images.Path, images.IsReadOnly,
            [.. images.Current().Select(Describe)], mount.Connection);
        return JsonSerializer.Serialize(new MountsReport(Schema, [report]), ControlJson.Default.MountsReport) + "\n";
    }

    /// <summary>The image file and what is known of it without opening it.</summary>
    private MountedImageReport Describe(ImageNodes nodes)
    {
        HostedImage image = nodes.Image;
        FileIdentity identity = image.Identity ?? default;
        ImageCounters counters = image.Counters;
        return new MountedImageReport(
            image.Path,
            mount.IsFile ? mount.MountPoint : Path.Combine(mount.MountPoint, nodes.RawName),
            image.Current is not null,
            image.IsReadOnly,
            image.Length,
            identity.Device,
            identity.Inode,
            new MountedImageRequests(
                counters.Reads, counters.ReadBytes, counters.Writes, counters.WrittenBytes, counters.Zeroes,
                counters.ZeroedBytes, counters.Flushes));
    }

    private void Work<T>(Func<T> work, TaskCompletionSource<T> done)
    {
        // With a lock of the image held, memory must not be waited for that its own mount has to write out.
        _ = ServingThread.TrySetIOFlusher();
        try
        {
            done.SetResult(work());
        }
        catch (Exception exception)
        {
            done.SetException(exception);
        }
        finally
        {
            CountDown();
        }
    }

    private void CountDown()
    {
        lock (_gate)
        {
            _running--;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Runs a verb on the open disk of an image; whatever it throws becomes an answer.</summary>
    private ControlAnswer OnImage(ControlCall call, Func<ImageNodes, BlockDevice, ControlAnswer> verb)
    {
        ImageNodes? nodes = images.Current().FirstOrDefault(
            one => string.Equals(one.Image.Path, call.Image, StringComparison.Ordinal));
        if (nodes is null)
            return Failed(ExitCode.Failure, $"{Printable.Text(call.Shown)}: is not mounted here");
        string name = nodes.Image.Path;
        try
        {
            lock (nodes.Image.ChangeLock)
            {
                BlockDevice device = nodes.Image.Acquire();
                try
                {
                    device = FilterDevice.Unwrap(device);
                    name = device.Name;
                    return verb(nodes, device);
                }
                finally
                {
                    nodes.Image.Release();
                }
            }
        }
        catch (CommandException exception)
        {
            return Failed(exception.ExitCode, exception.Message, exception.Hint);
        }
        catch (BlockException exception)
        {
            return Failed(ExitCode.Of(exception), MessageOf(exception, name, call.Shown),
                Advice.For(exception.Cause, TypedVerb.Mounted));
        }
        catch (OutOfMemoryException)
        {
            return Failed(ExitCode.Failure, $"{Printable.Text(call.Shown)}: the daemon is out of memory");
        }
        catch (Exception exception)
        {
            HostLog.RequestFailed(context.Logger, exception.ToString());
            return Failed(ExitCode.Internal, $"internal error: {exception.Message}");
        }
    }

    private static ControlAnswer Failed(int exitCode, string message, string? hint = null) =>
        new(exitCode, Error: message, Hint: hint);

    /// <summary>A message about the image itself, which the daemon knows by another name, with the user's name of it.
    /// </summary>
    private static string MessageOf(BlockException exception, string name, string shown) =>
        exception.Reason is { } reason && string.Equals(exception.File, name, StringComparison.Ordinal)
            ? $"{Printable.Text(shown)}: {reason}"
            : exception.Message;

    private static void RequireWritable(BlockDevice device, ControlCall call)
    {
        if (device.IsReadOnly)
            throw new CommandException(
                ExitCode.Failure, $"{Printable.Text(call.Shown)}: is mounted read-only and cannot be changed");
    }
}
