// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>A mount of this project.</summary>
public sealed class OwnMount(string program, string work, string? options = null) : Subject
{
    /// <inheritdoc/>
    public override string Name => "qcow2fuse";

    /// <inheritdoc/>
    public override bool IsOwn => true;

    /// <inheritdoc/>
    public override string? Missing => null;

    /// <inheritdoc/>
    public override Served Serve(Job job, SceneFiles files)
    {
        string cache = "cache=" + job.Cache;
        if (job.L2CacheSize is not null)
            cache += ",l2_cache_size=" + job.L2CacheSize;
        if (job.CompressedCopy)
            cache += ",compress";
        if (options is not null)
            cache += "," + options;
        return Mount(files.ImageFor(job.Scene), cache);
    }

    /// <summary>Mounts an image.</summary>
    public Served Mount(string image, string mountOptions)
    {
        string directory = Path.Combine(work, "own");
        Directory.CreateDirectory(directory);
        Tool.Run(program, image, directory, "-o", mountOptions);
        return new Shown(program, image, directory);
    }

    private sealed class Shown : Served
    {
        private readonly string _program;
        private readonly string _directory;

        public Shown(string program, string image, string directory)
        {
            _program = program;
            _directory = directory;
            File = Path.Combine(directory, Path.GetFileNameWithoutExtension(image) + ".raw");
            Processes = [.. Directory.EnumerateDirectories("/proc")
                .Select(static path => Path.GetFileName(path))
                .Where(static name => name.All(char.IsAsciiDigit))
                .Select(static name => int.Parse(name, CultureInfo.InvariantCulture))
                .Where(IsDaemon)];
        }

        public override string File { get; }

        public override IReadOnlyList<int> Processes { get; }

        protected override void Stop() => Tool.Run(_program, "umount", _directory);

        private bool IsDaemon(int process)
        {
            try
            {
                string[] words = System.IO.File.ReadAllText($"/proc/{process}/cmdline").Split('\0');
                return words.Contains(_directory, StringComparer.Ordinal)
                    && string.Equals(Path.GetFileName(words[0]), Path.GetFileName(_program), StringComparison.Ordinal);
            }
            catch (IOException)
            {
                // It has ended since the directory was listed.
                return false;
            }
        }
    }
}
