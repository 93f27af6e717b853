// SPDX-License-Identifier: MIT
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Control.Client;

/// <summary>
/// Asks a daemon over its control socket, which it takes over. Only a process of root or of this user that has the
/// number in the socket's name is asked. No call waits for one that gives no sign of life, and none waits for ever.
/// </summary>
/// <param name="socket">Its socket.</param>
internal sealed class ControlClient(DaemonSocket socket) : IDisposable
{
    /// <summary>More than the longest answer: the list of 65,536 snapshots.</summary>
    private const int AnswerBytesMax = 32 << 20;

    /// <summary>How long the list of mounts may take, whatever comes of it.</summary>
    private static readonly TimeSpan ListPatience = TimeSpan.FromSeconds(10);

    /// <summary>How long a verb may take, such as the check of a very large image.</summary>
    private static readonly TimeSpan WorkPatience = TimeSpan.FromHours(6);

    private static readonly TimeSpan SignPatience = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan ConnectPatience = TimeSpan.FromSeconds(5);

    private readonly HttpClient _http = new(
        new SocketsHttpHandler
        {
            ConnectTimeout = ConnectPatience,
            UseProxy = false,
            AllowAutoRedirect = false,
            ConnectCallback = async (_, cancellation) => await Connect(socket, cancellation),
        })
    { BaseAddress = new Uri("http://localhost"), Timeout = Timeout.InfiniteTimeSpan };

    /// <summary>The daemon's process id.</summary>
    public int Process => socket.Process;

    /// <summary>What the daemon says of its mounts; null where nobody listens or nobody answers in time.</summary>
    public MountsReport? TryGetMounts()
    {
        try
        {
            using HttpRequestMessage request = new(HttpMethod.Get, "/v1/mounts");
            return JsonSerializer.Deserialize(Send(request, ListPatience), ControlJson.Default.MountsReport);
        }
        catch (Exception exception) when (IsNoAnswer(exception))
        {
            return null;
        }
    }

    /// <summary>Has a verb done.</summary>
    /// <param name="verb">Name of the verb.</param>
    /// <param name="call">What to do.</param>
    /// <param name="type">The call's JSON form.</param>
    /// <param name="name">The image's name in messages.</param>
    /// <param name="failure">Exit code of the command where the daemon does not answer.</param>
    /// <exception cref="CommandException">The daemon does not answer.</exception>
    public ControlAnswer Call<TCall>(
        string verb, TCall call, JsonTypeInfo<TCall> type, string name, int failure = ExitCode.Failure)
    {
        try
        {
            using HttpRequestMessage request = new(HttpMethod.Post, "/v1/" + verb)
            {
                Content = new ByteArrayContent(JsonSerializer.SerializeToUtf8Bytes(call, type)),
            };
            request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
            return JsonSerializer.Deserialize(Send(request, WorkPatience), ControlJson.Default.ControlAnswer)
                ?? throw new JsonException("there is no answer");
        }
        catch (Exception exception) when (IsNoAnswer(exception))
        {
            throw new CommandException(
                failure,
                $"{Printable.Text(name)}: its daemon (pid {Process}) does not answer: {exception.Message}",
                inner: exception);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _http.Dispose();
        socket.Dispose();
    }

    private static bool IsNoAnswer(Exception exception) =>
        exception is HttpRequestException or IOException or SocketException or OperationCanceledException
            or JsonException;

    private static async Task<Stream> Connect(DaemonSocket daemon, CancellationToken cancellation)
    {
        Socket connection = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            await connection.ConnectAsync(new UnixDomainSocketEndPoint(daemon.Path), cancellation);
            if (PeerCredentials.Of(connection) is not { } peer || !peer.IsRootOrSelf || peer.Process != daemon.Process)
                throw new IOException("another process answers");
            return new NetworkStream(connection, ownsSocket: true);
        }
        catch
        {
            connection.Dispose();
            throw;
        }
    }

    private byte[] Send(HttpRequestMessage request, TimeSpan whole) =>
        SendAsync(request, whole).GetAwaiter().GetResult();

    /// <summary>
    /// The body of the answer; each part of it may take as long as <see cref="SignPatience"/>, and all of it so long.
    /// </summary>
    private async Task<byte[]> SendAsync(HttpRequestMessage request, TimeSpan whole)
    {
        using CancellationTokenSource end = new(whole);
        using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(end.Token);
        patience.CancelAfter(SignPatience);
        using HttpResponseMessage response = await _http.SendAsync(
            request, HttpCompletionOption.ResponseHeadersRead, patience.Token);
        await using Stream body = await response.Content.ReadAsStreamAsync(patience.Token);
        using MemoryStream all = new();
        byte[] part = new byte[16384];
        while (true)
        {
            patience.CancelAfter(SignPatience);
            int length = await body.ReadAsync(part, patience.Token);
            if (length == 0)
                break;
            if (all.Length + length > AnswerBytesMax)
                throw new IOException("the answer is too long");
            all.Write(part, 0, length);
        }

        response.EnsureSuccessStatusCode();
        return all.ToArray();
    }
}
