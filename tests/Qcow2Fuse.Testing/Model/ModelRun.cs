// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Model;

/// <summary>What came of one run of a case.</summary>
/// <param name="Done">Operations done.</param>
/// <param name="Refused">Kinds of operations that the engine refused as not supported.</param>
/// <param name="Failure">What went wrong, one line, or null.</param>
public sealed record ModelRunResult(
    int Done, IReadOnlyCollection<string> Refused, string? Failure);

/// <summary>Runs steps on an image and on an array, and has the result judged by other programs.</summary>
public static class ModelRun
{
    /// <summary>Runs the steps. Kinds of steps that cannot run on the image are left out.</summary>
    /// <param name="image">The image; it is not changed.</param>
    /// <param name="steps">The steps.</param>
    /// <param name="filter">Put between the steps and the image, or null.</param>
    public static ModelRunResult Run(
        ModelImage image, IReadOnlyList<ModelStep> steps, Func<BlockDevice, BlockDevice>? filter = null)
    {
        using ModelState state = new(image, filter);
        string where = "at the start";
        string? failure = null;
        try
        {
            state.Compare(0, state.Size, "opened");
            foreach (ModelStep step in steps)
            {
                ModelOperation operation = ModelOperation.Named(step.Kind);
                where = step.ToString();
                if (!operation.CanRun(state, step))
                    continue;
                operation.Run(state, step);
                state.Done++;
            }

            where = "at the end";
            state.Compare(0, state.Size, "compared");
            state.Close();
            state.CheckFile();
            failure = AskQemu(state);
        }
        catch (Exception thrown) when (
            thrown is ModelException or BlockException or PlainReaderException or InvalidOperationException)
        {
            failure = $"{where}: {(thrown is ModelException ? thrown.Message : thrown.ToString())}";
        }

        return new ModelRunResult(state.Done, state.Refused, failure);
    }

    private static string? AskQemu(ModelState state)
    {
        using TempDirectory directory = new();
        const string Image = ModelFiles.ImageName, Raw = "converted.raw";
        state.Files.Save(directory);
        ProcessResult check = ProcessRunner.Run("qemu-img", ["check", "-f", "qcow2", Image], directory.Path);
        if (check.ExitCode != 0)
            return $"qemu-img check ends with {check.ExitCode}: {check.Output}{check.Error}";
        ProcessResult convert = ProcessRunner.Run(
            "qemu-img", ["convert", "-f", "qcow2", "-O", "raw", Image, Raw], directory.Path);
        if (convert.ExitCode != 0)
            return $"qemu-img convert ends with {convert.ExitCode}: {convert.Error}";
        if (state.Files.IsRawData && !state.Expected.AsSpan().SequenceEqual(state.Files.DataBytes(state.Size)))
            return "the raw data file alone is not the disk";
        byte[] theirs = File.ReadAllBytes(directory.File(Raw));
        int same = theirs.AsSpan().CommonPrefixLength(state.Expected);
        return same == theirs.Length && same == state.Expected.Length
            ? null
            : string.Create(
                CultureInfo.InvariantCulture,
                $"qemu-img convert: {theirs.Length} of {state.Expected.Length} bytes, they differ at {same}");
    }
}
