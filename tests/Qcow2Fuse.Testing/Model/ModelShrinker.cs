// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;

namespace Qcow2Fuse.Testing.Model;

/// <summary>Finds a short list of small steps that still fails.</summary>
public sealed class ModelShrinker
{
    private const int RunsMax = 400;

    private readonly ModelImage _image;
    private readonly Func<BlockDevice, BlockDevice>? _filter;
    private int _runs;

    private ModelShrinker(ModelImage image, Func<BlockDevice, BlockDevice>? filter, string failure)
    {
        _image = image;
        _filter = filter;
        Failure = failure;
    }

    private string Failure { get; set; }

    /// <summary>
    /// Leaves out halves, quarters and so on of the steps, then makes lengths smaller, as long as the rest fails.
    /// </summary>
    /// <returns>The steps that are left, and how they fail.</returns>
    public static (IReadOnlyList<ModelStep> Steps, string Failure) Shrink(
        ModelImage image, IReadOnlyList<ModelStep> steps, string failure, Func<BlockDevice, BlockDevice>? filter = null)
    {
        ModelShrinker shrinker = new(image, filter, failure);
        List<ModelStep> left = shrinker.ShrinkSizes(shrinker.Remove([.. steps]));
        return (left, shrinker.Failure);
    }

    private List<ModelStep> Remove(List<ModelStep> steps)
    {
        for (int size = Math.Max(1, steps.Count / 2); ; size = size > 1 ? size / 2 : 1)
        {
            bool smaller = false;
            for (int at = 0; at < steps.Count;)
            {
                List<ModelStep> fewer = [.. steps.Take(at), .. steps.Skip(at + size)];
                if (Fails(fewer))
                {
                    steps = fewer;
                    smaller = true;
                }
                else
                {
                    at += size;
                }
            }

            if (_runs >= RunsMax || (size == 1 && !smaller))
                return steps;
        }
    }

    private List<ModelStep> ShrinkSizes(List<ModelStep> steps)
    {
        for (int i = 0; i < steps.Count; i++)
        {
            while (steps[i].Length > 1)
            {
                ModelStep step = steps[i];
                long half = step.Length / 2;
                ModelStep? smaller = new[]
                    {
                        step with { Length = half },
                        step with { Offset = step.Offset + half, Length = step.Length - half },
                        step with { Length = step.Length - 1 },
                    }
                    .FirstOrDefault(one => Fails([.. steps.Take(i), one, .. steps.Skip(i + 1)]));
                if (smaller is null)
                    break;
                steps[i] = smaller;
            }
        }

        return steps;
    }

    private bool Fails(List<ModelStep> steps)
    {
        if (++_runs > RunsMax)
            return false;
        string? failure = ModelRun.Run(_image, steps, _filter).Failure;
        Failure = failure ?? Failure;
        return failure is not null;
    }
}
