// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Model;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Sweep;

/// <summary>Which request of the engine fails.</summary>
/// <param name="OnDataFile">To the external data file instead of the image file.</param>
/// <param name="Rule">Which one, and how.</param>
public sealed record SweepFault(bool OnDataFile, FaultRule Rule)
{
    /// <inheritdoc/>
    public override string ToString() =>
        $"{Rule.Op} {Rule.Nth} of the {(OnDataFile ? "data" : "image")} file: {Rule.Error}"
        + (Rule.IsShort ? " after half of it" : "");
}

/// <summary>What came of one trial.</summary>
public sealed record SweepResult
{
    /// <summary>What went wrong, or null.</summary>
    public string? Failure { get; init; }

    /// <summary>Whether the request that was to fail came.</summary>
    public bool WasHit { get; init; }

    /// <summary>Whether a caller was told; otherwise the engine found another way.</summary>
    public bool WasReported { get; init; }

    /// <summary>Clusters that the closed image had lost.</summary>
    public long Leaks { get; init; }
}

/// <summary>
/// Runs the steps of a workload on a copy of an image while one request fails, and looks whether the error is reported,
/// the rest stays right, flushed data is there after closing, and the image can be worked on.
/// </summary>
public sealed class SweepTrial
{
    private readonly ModelImage _image;
    private readonly SweepFault? _fault;
    private readonly ModelFiles _files;
    private readonly SweepDisk _disk;
    private readonly FaultyDevice _imageFile;
    private readonly FaultyDevice? _dataFile;
    private bool _reported;
    private bool _isFinal;
    private bool _wasRetried;

    private SweepTrial(ModelImage image, SweepFault? fault)
    {
        _image = image;
        _fault = fault;
        _files = image.Files.Copy();
        _disk = new SweepDisk(image.Content);
        _imageFile = new FaultyDevice(_files.Image) { Enabled = false };
        if (_files.Data is not null)
            _dataFile = new FaultyDevice(_files.Data) { Enabled = false };
        if (fault is not null)
            (fault.OnDataFile ? _dataFile! : _imageFile).Fail(fault.Rule);
    }

    private bool WasHit => _imageFile.FailureCount + (_dataFile?.FailureCount ?? 0) > 0;

    private ulong Tag => _image.Case.Seed << 16;

    /// <summary>
    /// Counts the requests of a workload in which nothing fails: of the image file, and of the data file.
    /// </summary>
    public static IReadOnlyList<(bool OnDataFile, BlockOp Op, int Count)> Record(
        ModelImage image, IReadOnlyList<ModelStep> steps)
    {
        SweepTrial trial = new(image, null);
        if (trial.Work(steps) is { } wrong)
            throw new InvalidOperationException("without a failure: " + wrong);
        return
        [
            .. Enum.GetValues<BlockOp>().Select(op => (false, op, (int)trial._imageFile.CountOf(op))),
            .. Enum.GetValues<BlockOp>().Select(op => (true, op, (int)(trial._dataFile?.CountOf(op) ?? 0))),
        ];
    }

    /// <summary>Runs the steps with a failure.</summary>
    public static SweepResult Run(ModelImage image, IReadOnlyList<ModelStep> steps, SweepFault fault)
    {
        SweepTrial trial = new(image, fault);
        string? failure;
        long leaks = 0;
        try
        {
            failure = trial.Work(steps) ?? trial.JudgeClosed(out leaks) ?? trial.WorkAgain();
        }
        catch (Exception thrown) when (thrown is BlockException or PlainReaderException or InvalidOperationException)
        {
            failure = thrown.ToString();
        }

        if (failure is null && trial.WasHit && !trial._reported && !trial.MayBeAbsorbed)
            failure = "the error was never reported";
        return new SweepResult
        {
            Failure = failure,
            WasHit = trial.WasHit,
            WasReported = trial._reported,
            Leaks = leaks,
        };
    }

    /// <summary>Where space runs out, the engine frees what waits for a flush and tries again.</summary>
    private bool MayBeAbsorbed => _fault!.Rule.Op == BlockOp.Discard
        || (_fault.Rule.Error == BlockErrorKind.NoSpace && _wasRetried);

    private Qcow2Device Open() => Qcow2Device.Open(_imageFile, new FormatOpenArguments
    {
        Backing = _files.OpenBacking(),
        DataFile = _dataFile,
        Discard = _image.Discard,
        Formats =
        [
            new Qcow2Options
            {
                L2CacheBytesMax = _image.SmallCaches ? 1 : 0,
                RefcountCacheBytesMax = _image.SmallCaches ? 1 : 0,
            },
        ],
    });

    private string? Work(IReadOnlyList<ModelStep> steps)
    {
        Qcow2Device device = Open();
        string? wrong = null;
        try
        {
            foreach (ModelStep step in steps)
            {
                if (DoStep(device, step) is { } found)
                {
                    wrong = $"{step}: {found}";
                    break;
                }
            }

            wrong ??= _disk.Compare(device);
        }
        finally
        {
            Try(device.Dispose, out bool failed);
            _isFinal |= failed;
        }

        return wrong;
    }

    private string? DoStep(Qcow2Device device, ModelStep step)
    {
        bool wasHit = WasHit, wasFinal = _isFinal;
        (long Offset, byte[] Bytes)? effect = _disk.EffectOf(step, Tag);
        BlockException? error = Try(() => Do(device, step, effect), out bool failed);
        if (error is not null && !WasHit)
            return "failed although nothing was to fail yet: " + error;
        bool isHitNow = WasHit && !wasHit;
        bool mayWrite = step.Kind is "write" or "zero" or "unmap" or "grow"
            || (step.Kind == "discard" && _dataFile is not null);
        _wasRetried |= isHitNow && !failed && mayWrite;
        _isFinal |= WasHit && failed && _fault!.Rule.Op == BlockOp.Flush;
        if (failed && wasHit && !wasFinal)
            return "failed again although one request only was to fail: " + error;
        if (step.Kind == "flush" && wasFinal && !failed)
            return "a flush succeeded after one that had failed";
        string? wrong = effect is { } change
            ? _disk.Changed(device, change.Offset, change.Bytes, failed || step.Kind == "discard")
            : Resized(device, step);
        if (step.Kind == "flush" && !failed)
            _disk.Flushed();
        return wrong ?? (isHitNow ? _disk.Compare(device) : null);
    }

    private string? Resized(Qcow2Device device, ModelStep step)
    {
        if (step.Kind is "grow" or "shrink")
            _disk.MayHaveSize(step.Length);
        if (device.Length != _disk.Live.LongLength)
            _disk.Resized(device.Length);
        return null;
    }

    private static void Do(Qcow2Device device, ModelStep step, (long Offset, byte[] Bytes)? effect)
    {
        (long offset, byte[] bytes) = effect ?? (0, []);
        switch (step.Kind)
        {
            case "write":
                device.Write(offset, bytes);
                break;
            case "zero" or "unmap":
                device.WriteZeroes(offset, bytes.Length, mayUnmap: step.Kind == "unmap");
                break;
            case "discard":
                device.Discard(offset, bytes.Length);
                break;
            case "flush":
                device.Flush();
                break;
            case "grow" or "shrink":
                device.Resize(step.Length);
                break;
            case "read":
                offset = Math.Min(step.Offset, device.Length);
                device.Read(offset, new byte[Math.Min(step.Length, device.Length - offset)]);
                break;
            default:
                throw new InvalidOperationException(step.Kind);
        }
    }

    /// <summary>Does something while requests may fail, and says whether it did.</summary>
    private BlockException? Try(Action action, out bool failed)
    {
        BlockException? error = null;
        try
        {
            Enable(true);
            action();
        }
        catch (BlockException thrown)
        {
            error = thrown;
            _reported = true;
        }
        finally
        {
            Enable(false);
        }

        failed = error is not null;
        return error;
    }

    private void Enable(bool enabled)
    {
        _imageFile.Enabled = enabled;
        if (_dataFile is not null)
            _dataFile.Enabled = enabled;
    }

    private string? JudgeClosed(out long leaks)
    {
        PlainCheck check = _files.Reader().Check();
        leaks = check.Leaks;
        if (check.Errors.Count > 0)
            return "closed: " + string.Join("; ", check.Errors);
        return leaks > 0 && !WasHit ? $"closed: {leaks} leaked clusters without a failure" : null;
    }

    /// <summary>Opens the image again: what was flushed is there, it can be written, and is sound after that.</summary>
    private string? WorkAgain()
    {
        using (Qcow2Device device = Open())
        {
            if (_disk.Reopened(device, mustBeLive: !_isFinal) is { } wrong)
                return wrong;
            for (int i = 0; i < 8; i++)
            {
                long length = Math.Min(3000, device.Length);
                ModelStep step = new(9000 + i, "write", (device.Length - length) * i / 7, length);
                (long offset, byte[] bytes) = _disk.EffectOf(step, Tag)!.Value;
                device.Write(offset, bytes);
                _disk.Changed(device, offset, bytes, mayBeOld: false);
            }

            device.Flush();
            _disk.Flushed();
        }

        PlainReader reader = _files.Reader();
        PlainCheck check = reader.Check();
        if (check.Errors.Count > 0)
            return "worked on again: " + string.Join("; ", check.Errors);
        return reader.ReadAll().AsSpan().SequenceEqual(_disk.Live) ? null : "worked on again: it holds other bytes";
    }
}
