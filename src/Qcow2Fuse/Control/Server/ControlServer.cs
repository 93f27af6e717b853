// SPDX-License-Identifier: MIT
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Connections.Features;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Transport.Sockets;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Control.Server;

/// <summary>Kestrel on a socket that listens already, and what it answers. Nothing of ASP.NET above it is used.
/// </summary>
internal sealed class ControlServer : IHttpApplication<HttpContext>, IDisposable
{
    private const int PartChars = 128 << 10;
    private const int ConnectionsMax = 16;
    private const int BodyBytesMax = 64 * 1024;
    private const string Json = "application/json";
    private const string OpenMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    private static readonly TimeSpan HeaderPatience = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan IdlePatience = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan EndPatience = TimeSpan.FromSeconds(5);

    /// <summary>How long an answer waits for its turn, and how long a client may take for one.</summary>
    private static readonly TimeSpan TurnPatience = TimeSpan.FromMinutes(2);
    private static readonly TimeSpan ReadPatience = TimeSpan.FromSeconds(20);

    private readonly KestrelServer _kestrel;
    private readonly ControlHost _host;

    /// <summary>Answers that may be long are in memory one at a time.</summary>
    private readonly SemaphoreSlim _turn = new(1);

    private ControlServer(int listener, ControlHost host)
    {
        _host = host;
        KestrelServerOptions options = new() { AddServerHeader = false };
        options.Limits.MaxConcurrentConnections = ConnectionsMax;
        options.Limits.MaxRequestBodySize = BodyBytesMax;
        options.Limits.RequestHeadersTimeout = HeaderPatience;
        options.Limits.KeepAliveTimeout = IdlePatience;
        options.ListenHandle((ulong)listener, listen =>
        {
            listen.Protocols = HttpProtocols.Http1;
            ((IConnectionBuilder)listen).Use(RefuseStrangers);
        });
        SocketTransportOptions transport = new() { IOQueueCount = 1 };
        _kestrel = new KestrelServer(
            Options.Create(options),
            new SocketTransportFactory(Options.Create(transport), NullLoggerFactory.Instance),
            NullLoggerFactory.Instance);
    }

    /// <summary>Starts to answer on a listening socket, which stays the caller's.</summary>
    public static ControlServer Start(int listener, ControlHost host)
    {
        ControlServer server = new(listener, host);
        server._kestrel.StartAsync(server, CancellationToken.None).GetAwaiter().GetResult();
        return server;
    }

    /// <inheritdoc/>
    public HttpContext CreateContext(IFeatureCollection contextFeatures) => new DefaultHttpContext(contextFeatures);

    /// <inheritdoc/>
    public void DisposeContext(HttpContext context, Exception? exception)
    {
        // Nothing in it is ours.
    }

    /// <inheritdoc/>
    public Task ProcessRequestAsync(HttpContext context) => (context.Request.Method, context.Request.Path.Value) switch
    {
        ("GET", "/healthz") => WriteText(
            context, _host.IsServing ? "ok\n" : "ending\n", "text/plain",
            _host.IsServing ? StatusCodes.Status200OK : StatusCodes.Status503ServiceUnavailable),
        ("GET", "/metrics") => WriteLines(context, _host.Metrics, OpenMetrics),
        ("GET", "/v1/mounts") => WriteText(context, _host.Mounts, Json),
        ("POST", "/v1/info") => Answer(context, ControlJson.Default.InfoCall, _host.Info, static _ => true),
        ("POST", "/v1/check") => Answer(context, ControlJson.Default.CheckCall, _host.Check),
        ("POST", "/v1/snapshot") => Answer(context, ControlJson.Default.SnapshotCall, _host.Snapshot,
            static call => (call.Create ?? call.Apply ?? call.Delete) is null),
        ("POST", "/v1/resize") => Answer(context, ControlJson.Default.ResizeCall, _host.Resize),
        ("POST", "/v1/bitmap") => Answer(context, ControlJson.Default.BitmapCall, _host.Bitmap),
        ("POST", "/v1/umount") => Answer(context, ControlJson.Default.UmountCall, _host.Unmount),
        _ => WriteText(context, "there is nothing here\n", "text/plain", StatusCodes.Status404NotFound),
    };

    /// <inheritdoc/>
    public void Dispose()
    {
        using CancellationTokenSource patience = new(EndPatience);
        _kestrel.StopAsync(patience.Token).GetAwaiter().GetResult();
        _kestrel.Dispose();
        _turn.Dispose();
    }

    /// <summary>Ends connections of other users than this process's and root, before a byte of them is read.</summary>
    private static ConnectionDelegate RefuseStrangers(ConnectionDelegate next) => connection =>
    {
        if (connection.Features.Get<IConnectionSocketFeature>() is { } feature
            && PeerCredentials.Of(feature.Socket) is { IsRootOrSelf: true })
            return next(connection);
        connection.Abort(new ConnectionAbortedException("another user's connection"));
        return Task.CompletedTask;
    };

    private async Task WriteText(HttpContext context, Func<string> make, string type) =>
        await WriteText(context, await _host.Run(make), type);

    /// <summary>Writes a text that may be long, a part at a time; each is made on a thread of its own.</summary>
    private async Task WriteLines(HttpContext context, Func<IEnumerable<string>> make, string type)
    {
        context.Response.ContentType = type;
        using IEnumerator<string> lines = await _host.Run(() => make().GetEnumerator());
        while (await _host.Run(() => NextPart(lines)) is { Length: > 0 } part)
            await context.Response.Body.WriteAsync(part, context.RequestAborted);
    }

    private static byte[] NextPart(IEnumerator<string> lines)
    {
        StringBuilder part = new();
        while (part.Length < PartChars && lines.MoveNext())
            part.Append(lines.Current).Append('\n');
        return Encoding.UTF8.GetBytes(part.ToString());
    }

    private static Task WriteText(
        HttpContext context, string text, string type, int status = StatusCodes.Status200OK)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        context.Response.StatusCode = status;
        context.Response.ContentType = type;
        context.Response.ContentLength = bytes.Length;
        return context.Response.Body.WriteAsync(bytes, 0, bytes.Length);
    }

    /// <summary>
    /// Does what was asked for, on a thread of its own. While it takes, blanks in front of the JSON text show that
    /// there is somebody.
    /// </summary>
    /// <param name="context">The request.</param>
    /// <param name="type">The form of its body.</param>
    /// <param name="verb">What it asks for.</param>
    /// <param name="isLong">Whether the answer may be long; null for never.</param>
    private async Task Answer<TCall>(
        HttpContext context, JsonTypeInfo<TCall> type, Func<TCall, ControlAnswer> verb,
        Func<TCall, bool>? isLong = null)
        where TCall : class
    {
        TCall? call;
        try
        {
            call = await JsonSerializer.DeserializeAsync(context.Request.Body, type, context.RequestAborted);
        }
        catch (JsonException exception)
        {
            await WriteText(context, exception.Message + "\n", "text/plain", StatusCodes.Status400BadRequest);
            return;
        }

        if (call is null)
        {
            await WriteText(context, "an object is needed\n", "text/plain", StatusCodes.Status400BadRequest);
            return;
        }

        context.Response.ContentType = Json;
        if (isLong?.Invoke(call) != true)
        {
            await Write(context, await WithSigns(context, _host.Run(() => verb(call))));
            return;
        }

        if (!await WithSigns(context, _turn.WaitAsync(TurnPatience, context.RequestAborted)))
        {
            await Write(context, new ControlAnswer(ExitCode.Failure, Error: "the daemon has too much to answer"));
            return;
        }

        try
        {
            await Write(context, await WithSigns(context, _host.Run(() => verb(call))));
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Waits for something, and shows meanwhile that there is somebody.</summary>
    private static async Task<T> WithSigns<T>(HttpContext context, Task<T> work)
    {
        while (await Task.WhenAny(work, Task.Delay(ControlAnswer.SignPeriod)) != work)
        {
            await context.Response.Body.WriteAsync(" "u8.ToArray());
            await context.Response.Body.FlushAsync();
        }

        return await work;
    }

    /// <summary>
    /// Writes an answer in parts, so that its text is in memory once. A client that does not read is left.
    /// </summary>
    private static async Task Write(HttpContext context, ControlAnswer answer)
    {
        using CancellationTokenSource patience =
            CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted);
        patience.CancelAfter(ReadPatience);
        try
        {
            await AnswerWriter.Write(context.Response.BodyWriter, answer, patience.Token);
        }
        catch (OperationCanceledException)
        {
            context.Abort();
        }
    }
}
