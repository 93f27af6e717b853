// SPDX-License-Identifier: MIT
using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Text;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.EndToEnd.Tests.Control;

/// <summary>
/// Something that behaves as the daemon of an image and is none: this process holds the image with a writer's lock,
/// listens on a control socket, and says what it likes.
/// </summary>
internal sealed class FakeDaemon : IDisposable
{
    private readonly FileDevice _image;
    private readonly Socket _listener;
    private readonly string _path;
    private readonly Thread _server;
    private readonly ConcurrentQueue<string> _requests = new();
    private readonly Func<string, IEnumerable<byte[]>> _answer;
    private volatile bool _isOver;

    /// <param name="image">The image to lock.</param>
    /// <param name="path">Where to listen; the directory is there.</param>
    /// <param name="answer">The parts of the answer to a request line, one after the other; endless ones end when the
    /// peer has had enough.</param>
    public FakeDaemon(string image, string path, Func<string, IEnumerable<byte[]>> answer)
    {
        _answer = answer;
        _path = path;
        _image = FileDevice.Open(image, readOnly: false);
        _image.Lock(ImageLockMode.Writer);
        _listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        _listener.Bind(new UnixDomainSocketEndPoint(path));
        _listener.Listen(8);
        _server = new Thread(Serve) { IsBackground = true };
        _server.Start();
    }

    /// <summary>The first lines of all requests so far.</summary>
    public IReadOnlyCollection<string> Requests => _requests;

    /// <summary>The body of an answer of /v1/mounts: this process has <paramref name="image"/> mounted.</summary>
    public static byte[] Mounts(string image, string mountPoint, string rawFile, int connection)
    {
        int fd = LinuxFile.Open(image, OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        _ = LinuxFile.Status(fd, out FileStatus status);
        _ = LinuxFile.Close(fd);
        return Answer(
            $$$"""
            {"schema":1,"mounts":[{"pid":{{{Environment.ProcessId}}},"mount-point":"{{{mountPoint}}}",
            "source":"{{{image}}}","is-read-only":false,"connection":{{{connection}}},
            "images":[{"image":"{{{image}}}","file":"{{{rawFile}}}","is-open":true,"is-read-only":false,
            "virtual-size":1,"device":{{{status.Device}}},"inode":{{{status.Inode}}},
            "requests":{"reads":0,"read-bytes":0,"writes":0,"written-bytes":0,"zeroes":0,"zeroed-bytes":0,
            "flushes":0}}]}]}
            """);
    }

    /// <summary>A whole answer with a JSON body.</summary>
    public static byte[] Answer(string body) => Encoding.UTF8.GetBytes(
        $"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        + $"Content-Length: {Encoding.UTF8.GetByteCount(body)}\r\n\r\n{body}");

    public void Dispose()
    {
        _isOver = true;
        _listener.Dispose();
        _server.Join();
        File.Delete(_path);
        _image.Dispose();
    }

    private void Serve()
    {
        while (!_isOver)
        {
            try
            {
                using Socket peer = _listener.Accept();
                byte[] request = new byte[65536];
                int length = peer.Receive(request);
                if (length == 0)
                    continue;
                string line = Encoding.UTF8.GetString(request, 0, length).Split('\r')[0];
                _requests.Enqueue(line);
                foreach (byte[] part in _answer(line))
                    _ = peer.Send(part);
                peer.Shutdown(SocketShutdown.Send);
            }
            catch (SocketException)
            {
                // The peer has had enough, or the test is over.
            }
        }
    }
}
