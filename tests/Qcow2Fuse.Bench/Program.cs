// SPDX-License-Identifier: MIT
using System.CommandLine;
using System.Globalization;

namespace Qcow2Fuse.Bench;

internal static class Program
{
    private static int Main(string[] args)
    {
        Argument<string> program = new("PROGRAM") { Description = "qcow2fuse" };
        Option<string> work = new("--work") { DefaultValueFactory = static _ => "/var/tmp" };
        Option<string> output = new("--output") { DefaultValueFactory = static _ => "out/bench" };
        Option<int> rounds = new("--rounds") { DefaultValueFactory = static _ => 3 };
        Option<int> seconds = new("--seconds") { DefaultValueFactory = static _ => 4 };
        Option<int> size = new("--size-mib") { DefaultValueFactory = static _ => 512 };
        Option<string?> only = new("--only") { Description = "Ids of jobs, separated by commas" };
        Option<string?> daemon = new("--qsd") { Description = "Another qemu-storage-daemon to compare with" };
        Option<string?> own = new("--own-options") { Description = "More -o options for qcow2fuse" };
        Option<string?> against = new("--against")
            { Description = "Another build of qcow2fuse, to which alone this one is compared" };
        Option<bool> uring = new("--uring") { Description = "Measure FUSE over io_uring too; needs root" };
        RootCommand root = new("Measures mounts side by side: this project, its peers and the plain file")
            { program, work, output, rounds, seconds, size, only, daemon, own, uring, against };
        root.SetAction(parsed => Run(new BenchOptions
        {
            Program = Path.GetFullPath(parsed.GetRequiredValue(program)),
            Work = Path.Combine(parsed.GetRequiredValue(work), $"qcow2fuse-bench-{Environment.ProcessId}"),
            Output = Path.GetFullPath(parsed.GetRequiredValue(output)),
            Rounds = parsed.GetRequiredValue(rounds),
            Seconds = parsed.GetRequiredValue(seconds),
            Size = (long)parsed.GetRequiredValue(size) << 20,
            Only = parsed.GetValue(only) is { Length: > 0 } ids ? ids.Split(',') : [],
            OtherStorageDaemon = parsed.GetValue(daemon) is { Length: > 0 } path ? path : null,
            OwnOptions = parsed.GetValue(own) is { Length: > 0 } more ? more : null,
            WithUring = parsed.GetValue(uring),
            Against = parsed.GetValue(against) is { Length: > 0 } other ? Path.GetFullPath(other) : null,
        }));
        return root.Parse(args).Invoke();
    }

    private static int Run(BenchOptions options)
    {
        Directory.CreateDirectory(options.Work);
        Directory.CreateDirectory(options.Output);
        try
        {
            OwnMount own = new("qcow2fuse", options.Program, options.Work, options.OwnOptions, overUring: false);
            List<Subject> subjects = options.Against is { } other
                ? [own, new OwnMount("other build", other, options.Work, options.OwnOptions, overUring: false)]
                : [new PlainFile(), own, .. Peers(options)];
            foreach (Subject subject in subjects.Where(static one => one.Missing is not null))
                Console.Error.WriteLine($"without {subject.Name}: {subject.Missing}");

            JobRunner runner = new(options, new SceneFiles(options.Work, options.Size), subjects, Console.Error);
            List<JobResult> results = [];
            foreach (Job job in JobTable.All.Where(job => options.Only.Count == 0 || options.Only.Contains(job.Id)))
                results.Add(runner.Run(job));
            IReadOnlyList<string> idle = Asks(options, Footprint.Id)
                ? [CommandTimes.Measure(options), .. Footprint.Measure(options, own, "64M", "1T", "64T")] : [];
            IReadOnlyList<Growth> growth = Asks(options, Growth.Id) && options.Against is null
                ? Growth.Measure(options, own) : [];

            string report = string.Join(
                "\n",
                [
                    Machine.Describe(),
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"Medians of {options.Rounds} rounds of {options.Seconds} s; {options.Size >> 20} MiB disks."),
                    string.Empty,
                    options.Against is null
                        ? MarkdownTable.Write(results, subjects)
                        : PairTable.Write(results, subjects[0], subjects[1]),
                    .. MarkdownTable.Gaps(results),
                    .. idle,
                    string.Empty,
                    .. growth.Count > 0 ? Growth.Table(growth) : [],
                ]);
            File.WriteAllText(Path.Combine(options.Output, "bench.md"), report);
            if (options.Against is null)
                File.WriteAllText(Path.Combine(options.Output, "bench.svg"), SvgChart.Write(results, subjects));
            Console.WriteLine(report);
            return 0;
        }
        finally
        {
            Directory.Delete(options.Work, recursive: true);
        }
    }

    /// <summary>Whether what is no job of its own is asked for: by its id, or with all jobs.</summary>
    private static bool Asks(BenchOptions options, string id) => options.Only.Count == 0 || options.Only.Contains(id);

    private static IEnumerable<Subject> Peers(BenchOptions options)
    {
        if (options.WithUring)
        {
            yield return new OwnMount(
                "qcow2fuse, uring", options.Program, options.Work, options.OwnOptions, overUring: true);
        }

        yield return new StorageDaemon("storage daemon", "qemu-storage-daemon", options.Work);
        if (options.OtherStorageDaemon is not null)
            yield return new StorageDaemon("other daemon", options.OtherStorageDaemon, options.Work);
        yield return new NbdFuse(options.Work);
    }
}
