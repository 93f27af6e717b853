// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Exerciser;

// exerciser SEED SECONDS DISK [PARTITION@START ...]: random operations on the disk and on files that show parts of it.
if (args.Length < 3)
{
    Console.Error.WriteLine("usage: exerciser SEED SECONDS DISK [PARTITION@START ...]");
    return 2;
}

ulong seed = ulong.Parse(args[0], CultureInfo.InvariantCulture);
TimeSpan time = TimeSpan.FromSeconds(double.Parse(args[1], CultureInfo.InvariantCulture));
using Exercise exercise = new(args.Skip(2), seed);
try
{
    for (Stopwatch since = Stopwatch.StartNew(); since.Elapsed < time;)
        exercise.Step();
    exercise.CompareAll();
}
catch (Exception exception) when (exception is IOException or InvalidDataException)
{
    foreach (string line in exercise.History)
        Console.Out.WriteLine(line);
    Console.Error.WriteLine(
        $"seed {seed}, operation {exercise.Count.ToString(CultureInfo.InvariantCulture)}: {exception.Message}");
    return 1;
}

Console.Out.WriteLine(string.Create(
    CultureInfo.InvariantCulture,
    $"seed {seed}: {exercise.Count} operations, {exercise.Late} seen late; {exercise.Summary}"));
return 0;
