// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;

namespace Qcow2Fuse.Bench;

/// <summary>
/// The plain file copied in pieces of 4 KiB into a mount with <c>-o compress</c>, until it is unmounted, against
/// <c>qemu-img convert -c</c> of the same file with as many threads as there are processors.
/// </summary>
public sealed class CompressedCopy
{
    private const int Piece = 4096;
    private readonly BenchOptions _options;
    private readonly SceneFiles _files;

    /// <summary>Copies in the directory of <paramref name="options"/>.</summary>
    public CompressedCopy(BenchOptions options, SceneFiles files)
    {
        _options = options;
        _files = files;
        Peer = new Converter();
    }

    /// <summary>Whom the copy is compared with.</summary>
    public Subject Peer { get; }

    /// <summary>Copies once.</summary>
    public Measurement Run(Job job, Subject subject)
    {
        string source = _files.Plain;
        long size = _files.SizeOf(job.Scene), peak = 0;
        Tool.DropCaches();
        Tool.Run("dd", "if=" + source, "of=/dev/null", "bs=1M", "status=none");
        double cpu = 0;
        Stopwatch watch = new();
        if (subject.IsOwn)
        {
            using Served served = subject.Serve(job, _files);
            watch.Start();
            Tool.Run("dd", "if=" + source, "of=" + served.File, $"bs={Piece}", "conv=notrunc,fsync", "status=none");
            watch.Stop();
            cpu = ProcessFigures.CpuMicroseconds(served.Processes);
            peak = ProcessFigures.PeakBytes(served.Processes);
        }
        else
        {
            string target = Path.Combine(_options.Work, "converted.qcow2");
            File.Delete(target);
            string threads = Math.Clamp(Environment.ProcessorCount, 1, 16).ToString(CultureInfo.InvariantCulture);
            watch.Start();
            Tool.Run("qemu-img", "convert", "-c", "-m", threads, "-W", "-f", "raw", "-O", "qcow2", source, target);
            Tool.Run("sync", target);
            watch.Stop();
            File.Delete(target);
        }

        double seconds = watch.Elapsed.TotalSeconds;
        return new Measurement(size / Piece / seconds, size / seconds, cpu * Piece / size, peak);
    }

    private sealed class Converter : Subject
    {
        public override string Name => "qemu-img convert -c";

        public override string? Missing => null;

        public override Served Serve(Job job, SceneFiles files) =>
            throw new InvalidOperationException("it shows no file");
    }
}
