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
/// [direct]. Prints "ready" when the mount answers; on a line of input it unmounts, and prints how many exchanges there
/// were.
/// </summary>
internal static class Program
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(1);

    private static int Main(string[] arguments)
    {
        long exchanges = Serve(arguments);

        // The image is closed by now.
        Console.WriteLine(exchanges.ToString(CultureInfo.InvariantCulture));
        return exchanges < 0 ? 1 : 0;
    }

    /// <summary>How many exchanges there were; negative where the mount did not begin or end.</summary>
    private static long Serve(string[] arguments)
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
            return -1;

        Console.WriteLine(server.UringRefusal is { } refusal ? $"no io_uring: {refusal}" : "ready");
        long exchanges = 0;
        Thread exchanging = new(() => exchanges = ExchangeUntil(stops, images.Current()[0].Image.Served!.Live));
        exchanging.Start();
        _ = Console.ReadLine();
        stops.Set();
        exchanging.Join();
        mount.Unmount(lazy: true);
        return server.WaitForEnd(Patience) ? exchanges : -1;
    }

    /// <summary>Puts a filter in and takes it out again, some hundred times a second.</summary>
    private static long ExchangeUntil(ManualResetEventSlim stops, LiveDevice live)
    {
        long exchanges = 0;
        while (!stops.Wait(millisecondsTimeout: 1))
        {
            live.Exchange(static below => below is WriteThroughFilter filter
                ? filter.Child : new WriteThroughFilter(below));
            exchanges++;
        }

        return exchanges;
    }
}
