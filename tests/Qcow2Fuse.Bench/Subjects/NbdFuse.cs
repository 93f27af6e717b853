// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Bench;

/// <summary>nbdfuse over a socket of qemu-nbd.</summary>
public sealed class NbdFuse(string work) : Subject
{
    private const string Client = "nbdfuse";
    private const string Server = "qemu-nbd";

    /// <inheritdoc/>
    public override string Name => "qemu-nbd + nbdfuse";

    /// <inheritdoc/>
    public override string? Missing =>
        new[] { Client, Server }.FirstOrDefault(static program => ProcessRunner.Find(program) is null) is { } lacking
            ? $"{lacking} is not installed"
            : null;

    /// <inheritdoc/>
    public override Served Serve(Job job, SceneFiles files)
    {
        string directory = Path.Combine(work, "nbd"), socket = Path.Combine(work, "nbd.socket");
        Directory.CreateDirectory(directory);
        File.Delete(socket);
        bool direct = string.Equals(job.Cache, "none", StringComparison.Ordinal);
        string image = "driver=qcow2,file.driver=file,file.filename=" + files.ImageFor(job.Scene)
            + (job.L2CacheBytes is { } bytes ? $",l2-cache-size={bytes}" : string.Empty);
        Background server = new(
            Server, "-t", "-e", "16", "-k", socket, "--cache=" + job.Cache, direct ? "--aio=native" : "--aio=threads",
            "--discard=unmap", "--image-opts", image);
        return new Shown(directory, socket, server);
    }

    private sealed class Shown : Served
    {
        private readonly string _directory;
        private readonly Background _server;
        private readonly Background _client;

        public Shown(string directory, string socket, Background server)
        {
            _directory = directory;
            _server = server;
            server.WaitFor(() => System.IO.File.Exists(socket));
            File = Path.Combine(directory, "disk");
            _client = new Background(Client, File, "nbd+unix:///?socket=" + socket);
            _client.WaitFor(() => Tool.IsMounted(directory));
        }

        public override string File { get; }

        public override IReadOnlyList<int> Processes => [_server.Id, _client.Id];

        protected override void Stop()
        {
            try
            {
                Tool.Run("umount", _directory);
                _client.Dispose();
            }
            finally
            {
                _server.Dispose();
            }
        }
    }
}
