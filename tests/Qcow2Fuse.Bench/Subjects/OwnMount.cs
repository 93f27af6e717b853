// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;

namespace Qcow2Fuse.Bench;

/// <summary>A mount of this project.</summary>
/// <param name="name">What its column is called.</param>
/// <param name="program">The program.</param>
/// <param name="work">Where mount points go.</param>
/// <param name="options">More options than those of the job, as for <c>-o</c>.</param>
/// <param name="overUring">Whether requests come over io_uring, which the kernel is told to offer.</param>
public sealed class OwnMount(string name, string program, string work, string? options, bool overUring) : Subject
{
    private const string UringOption = ",transport=uring";

    /// <inheritdoc/>
    public override string Name => name;

    /// <inheritdoc/>
    public override bool IsOwn => true;

    /// <inheritdoc/>
    public override string? Missing =>
        overUring && UringSwitch.Obstacle() is { Length: > 0 } obstacle ? obstacle : null;

    /// <inheritdoc/>
    public override Served Serve(Job job, SceneFiles files)
    {
        string cache = "cache=" + job.Cache;
        if (job.L2CacheBytes is { } bytes)
            cache += $",l2_cache_size={bytes}";
        if (job.CompressedCopy)
            cache += ",compress";
        if (options is not null)
            cache += "," + options;
        return Mount(files.ImageFor(job.Scene), cache);
    }

    /// <summary>Mounts an image.</summary>
    public Served Mount(string image, string mountOptions) => Mount(image, mountOptions, out _);

    /// <summary>Mounts an image, and tells how long the command took.</summary>
    public Served Mount(string image, string mountOptions, out TimeSpan ready)
    {
        Stopwatch watch = Stopwatch.StartNew();
        string directory = Path.Combine(work, "own");
        Directory.CreateDirectory(directory);
        if (!overUring)
        {
            Tool.Run(program, image, directory, "-o", mountOptions);
            ready = watch.Elapsed;
            return new Shown(program, image, directory);
        }

        string words;
        using (UringSwitch.Hold(on: true))
            words = ProcessRunner.Run(program, [image, directory, "-o", mountOptions + UringOption])
                .ShouldSucceed().Error;
        ready = watch.Elapsed;
        Shown shown = new(program, image, directory);
        if (words.Length == 0)
            return shown;

        // It serves by other means, and says so.
        shown.Dispose();
        throw new InvalidOperationException(words.Trim());
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
