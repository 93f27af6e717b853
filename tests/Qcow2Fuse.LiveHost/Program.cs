// SPDX-License-Identifier: MIT
using System.Globalization;
using Microsoft.Extensions.Logging.Abstractions;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Block.Live;
using Qcow2Fuse.Daemon;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Hosting.Nodes;
using Qcow2Fuse.Hosting.Tree;
using Qcow2Fuse.Settings;

namespace Qcow2Fuse.LiveHost;

/// <summary>
/// Mounts an image as the program does, and exchanges what is below its disk all the time: IMAGE MOUNTPOINT [uring]
/// [direct]. Prints "ready" when the mount answers, and for each line "count" how many exchanges there were; on any
/// other line it unmounts, and says that when the image is closed.
/// </summary>
internal static class Program
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(1);

    private static int Main(string[] arguments)
    {
        bool isWhole = Serve(arguments);
        Console.WriteLine(isWhole ? "closed" : "the mount does not begin, or does not end");
        return isWhole ? 0 : 1;
    }

    /// <summary>False where the mount did not begin or end.</summary>
    private static bool Serve(string[] arguments)
    {
        bool isDirect = arguments.Contains("direct");
        MountSettings settings = new()
        {
            Source = arguments[0],
            Directory = arguments[1],
            GivenCache = isDirect ? CacheMode.None : null,
        };
        using ManualResetEventSlim stops = new();
        using ImageSet images = ImageSet.Open(settings, arguments[0], NullLogger.Instance);
        using FuseMount mount = FuseMount.Mount(MountRequest.From(settings, images, arguments[1]));
        TreeContext context = new(settings, NullLogger.Instance);
        images.CreateNodes(context, rootIsFile: false);
        TreeFileSystem fileSystem = new(context, images);
        using FuseServer server = new(mount.OpenTransport(), fileSystem, new FuseServerOptions
        {
            Uring = arguments.Contains("uring"),
            QueuesTransfers = isDirect,
            MapException = fileSystem.OnFailure,
        });
        context.Invalidator = server.Invalidator;
        server.Start();
        if (!server.WaitForInit(Patience))
            return false;

        Console.WriteLine(server.UringRefusal is { } refusal ? $"no io_uring: {refusal}" : "ready");
        long exchanges = 0;
        Thread exchanging = new(() => ExchangeUntil(stops, images.Current()[0].Image.Served!.Live, ref exchanges));
        exchanging.Start();
        while (Console.ReadLine() is "count")
            Console.WriteLine(Volatile.Read(ref exchanges).ToString(CultureInfo.InvariantCulture));
        stops.Set();
        exchanging.Join();
        mount.Unmount(lazy: true);
        return server.WaitForEnd(Patience);
    }

    /// <summary>Puts a filter in and takes it out again, some hundred times a second.</summary>
    private static void ExchangeUntil(ManualResetEventSlim stops, LiveDevice live, ref long exchanges)
    {
        while (!stops.Wait(millisecondsTimeout: 1))
        {
            live.Exchange(static below => below is WriteThroughFilter filter
                ? filter.Child : new WriteThroughFilter(below));
            Volatile.Write(ref exchanges, exchanges + 1);
        }
    }
}
