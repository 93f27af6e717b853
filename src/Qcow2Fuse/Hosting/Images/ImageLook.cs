// SPDX-License-Identifier: MIT
using System.Runtime.ExceptionServices;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Partitions;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// How long one request waits for images that are looked into. One that is ready soon takes nothing of it, so that any
/// number of them is waited for.
/// </summary>
internal sealed class LookPatience
{
    private static readonly TimeSpan Least = TimeSpan.FromMilliseconds(20);

    /// <summary>What is left of it.</summary>
    public TimeSpan Left { get; private set; } = TimeSpan.FromSeconds(2);

    /// <summary>Waits for a place where few are; false where there is none in time.</summary>
    public bool Wait(SemaphoreSlim places)
    {
        TimeSpan most = Left > Least ? Left : TimeSpan.Zero;
        if (places.Wait(most))
            return true;
        Left -= most;
        return false;
    }

    /// <summary>Waits for one image; false where it is not ready in time.</summary>
    public bool Wait(ManualResetEventSlim ready)
    {
        TimeSpan most = Left > Least ? Left : Least;
        if (ready.Wait(most))
            return true;
        Left -= most;
        return false;
    }
}

/// <summary>
/// Reads the partition table of a closed image on a thread of its own, since opening the image may take as long as its
/// maker likes.
/// </summary>
internal sealed class ImageLook
{
    /// <summary>Images that are looked into at a time.</summary>
    private const int LooksMax = 4;

    private const int StackSize = 256 << 10;

    private static readonly SemaphoreSlim Places = new(LooksMax);

    private readonly ManualResetEventSlim _ready = new();
    private volatile PartitionTable? _result;
    private volatile ExceptionDispatchInfo? _failure;

    private ImageLook(FileStamp stamp) => Stamp = stamp;

    /// <summary>The file's stamp when the look began.</summary>
    public FileStamp Stamp { get; }

    /// <summary>The partitions; null before they are known.</summary>
    public PartitionTable? Result => _result;

    /// <summary>Whether they cannot be read.</summary>
    public bool HasFailed => _failure is not null;

    /// <summary>Takes a place among the images that are looked into; false where there is none in time.</summary>
    public static bool TryTakePlace(LookPatience patience) => patience.Wait(Places);

    /// <summary>Gives a place back that is not needed.</summary>
    public static void ReturnPlace() => Places.Release();

    /// <summary>Begins to look, in a place that was taken.</summary>
    public static ImageLook Begin(Func<ServedImage> open, FileStamp stamp)
    {
        try
        {
            ImageLook look = new(stamp);
            Thread thread = new(() => look.Run(open), StackSize) { IsBackground = true, Name = "look" };
            return ManagedRoom.TryStart(thread)
                ? look : throw new InsufficientMemoryException("there is no room for one more thread");
        }
        catch
        {
            ReturnPlace();
            throw;
        }
    }

    /// <summary>Waits until the partitions are known; false where that takes longer.</summary>
    /// <exception cref="BlockException">They cannot be read.</exception>
    public bool Wait(LookPatience patience)
    {
        bool isReady = patience.Wait(_ready);
        _failure?.Throw();
        return isReady;
    }

    private void Run(Func<ServedImage> open)
    {
        _ = ServingThread.TrySetIOFlusher();
        try
        {
            using ServedImage image = open();
            _result = PartitionTable.Read(image.Device);
        }
        catch (Exception exception)
        {
            // Whoever waits for it is told.
            _failure = ExceptionDispatchInfo.Capture(exception);
        }
        finally
        {
            Places.Release();
            _ready.Set();
        }
    }
}
