// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Bench;

/// <summary>The FUSE export of qemu-storage-daemon.</summary>
public sealed class StorageDaemon(string name, string program, string work) : Subject
{
    /// <inheritdoc/>
    public override string Name => name;

    /// <inheritdoc/>
    public override string? Missing =>
        File.Exists(program) || ProcessRunner.Find(program) is not null ? null : $"{program} is not installed";

    /// <inheritdoc/>
    public override Served Serve(Job job, SceneFiles files)
    {
        string mountPoint = Path.Combine(work, "export");
        File.WriteAllBytes(mountPoint, []);
        bool direct = string.Equals(job.Cache, "none", StringComparison.Ordinal);
        string storage = "driver=file,node-name=file,discard=unmap,filename=" + files.ImageFor(job.Scene)
            + (direct ? ",cache.direct=on,aio=native" : ",cache.direct=off,aio=threads");
        string format = "driver=qcow2,node-name=disk,discard=unmap,file=file"
            + (job.L2CacheBytes is { } bytes ? $",l2-cache-size={bytes}" : string.Empty);
        return new Shown(mountPoint, new Background(
            program, "--blockdev", storage, "--blockdev", format,
            "--export", $"type=fuse,id=e,node-name=disk,writable=on,mountpoint={mountPoint}"));
    }

    private sealed class Shown : Served
    {
        private readonly Background _daemon;

        public Shown(string file, Background daemon)
        {
            File = file;
            _daemon = daemon;
            daemon.WaitFor(() => Tool.IsMounted(file));
        }

        public override string File { get; }

        public override IReadOnlyList<int> Processes => [_daemon.Id];

        protected override void Stop() => _daemon.Dispose();
    }
}
