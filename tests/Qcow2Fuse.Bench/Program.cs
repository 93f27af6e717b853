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
        Option<bool> uring = new("--uring") { Description = "Measure FUSE over io_uring too; needs root" };
        RootCommand root = new("Measures mounts side by side: this project, its peers and the plain file")
            { program, work, output, rounds, seconds, size, only, daemon, own, uring };
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
            List<Subject> subjects = [new PlainFile(), own];
            if (options.WithUring)
            {
                subjects.Add(new OwnMount(
                    "qcow2fuse, uring", options.Program, options.Work, options.OwnOptions, overUring: true));
            }

            subjects.Add(new StorageDaemon("storage daemon", "qemu-storage-daemon", options.Work));
            if (options.OtherStorageDaemon is not null)
                subjects.Add(new StorageDaemon("other daemon", options.OtherStorageDaemon, options.Work));
            subjects.Add(new NbdFuse(options.Work));
            foreach (Subject subject in subjects.Where(static one => one.Missing is not null))
                Console.Error.WriteLine($"without {subject.Name}: {subject.Missing}");

            JobRunner runner = new(options, new SceneFiles(options.Work, options.Size), subjects, Console.Error);
            List<JobResult> results = [];
            foreach (Job job in JobTable.All.Where(job => options.Only.Count == 0 || options.Only.Contains(job.Id)))
                results.Add(runner.Run(job));
            IReadOnlyList<Footprint> idle = options.Only.Count > 0
                ? [] : Footprint.Measure(options, own, "64M", "1T", "64T");
            IReadOnlyList<Growth> growth = options.Only.Count > 0 && !options.Only.Contains(Growth.Id)
                ? [] : Growth.Measure(options, own);

            string report = string.Join(
                "\n",
                [
                    Machine.Describe(),
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"Medians of {options.Rounds} rounds of {options.Seconds} s; {options.Size >> 20} MiB disks."),
                    string.Empty,
                    MarkdownTable.Write(results, subjects),
                    .. MarkdownTable.Gaps(results),
                    .. idle.Select(static one => one.ToString()),
                    string.Empty,
                    .. growth.Count > 0 ? Growth.Table(growth) : [],
                ]);
            File.WriteAllText(Path.Combine(options.Output, "bench.md"), report);
            File.WriteAllText(Path.Combine(options.Output, "bench.svg"), SvgChart.Write(results, subjects));
            Console.WriteLine(report);
            return 0;
        }
        finally
        {
            Directory.Delete(options.Work, recursive: true);
        }
    }
}
