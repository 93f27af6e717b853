// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Testing.Faults;
using Qcow2Fuse.Testing.Oracle;

namespace Qcow2Fuse.Testing.Crash;

/// <summary>How much a crash run does.</summary>
public sealed record CrashRunOptions
{
    /// <summary>Rounds of operations; a round of several writers has one operation for each.</summary>
    public int Rounds { get; init; } = 60;

    /// <summary>Crash states to judge.</summary>
    public long States { get; init; } = 200;

    /// <summary>Operations that run at the same time, 1 to 4.</summary>
    public int Writers { get; init; } = 1;

    /// <summary>Every how many states the engine itself opens the state and works on it; 0 for never.</summary>
    public int RecoverEvery { get; init; } = 40;

    /// <summary>The image; null for one out of all kinds.</summary>
    public ImageKind? Kind { get; init; }

    /// <summary>The operations, one a round; null for random ones.</summary>
    public IReadOnlyList<GuestOp>? Ops { get; init; }

    /// <summary>Whether most of what the guest writes compresses well.</summary>
    public bool Compressible { get; init; }

    /// <summary>A request of the engine to the file that fails, once the image is prefilled; null for none.</summary>
    public FaultRule? Fault { get; init; }

    /// <summary>A device put between the engine and the recorded file, or null.</summary>
    public Func<BlockDevice, BlockDevice>? Filter { get; init; }

    /// <summary>Takes states for a second opinion, or null. Throws or returns what is wrong.</summary>
    public Func<ByteImage, byte[]?, PlainReader, string?>? SecondJudge { get; init; }
}

/// <summary>What came of a crash run.</summary>
/// <param name="States">States judged.</param>
/// <param name="FaultWasHit">Whether the request that was to fail came.</param>
/// <param name="Failure">What went wrong and how to see it again, or null.</param>
public sealed record CrashRunResult(long States, bool FaultWasHit, string? Failure);

/// <summary>
/// One random workload on one image: everything the engine does to the file and everything the guest does to the disk
/// is recorded on one clock, then crash states are built and judged. Everything follows from the seed; with several
/// writers the order of the threads does not.
/// </summary>
public sealed partial class CrashRun
{
    private readonly ICrashSubject _subject;
    private readonly ulong _seed;
    private readonly CrashRunOptions _options;
    private readonly SeededRandom _random;
    private readonly ImageKind _kind;
    private readonly CrashDevice _disk;
    private readonly CrashDevice? _data;
    private readonly CrashWorkload _workload;
    private readonly List<GuestOp> _ops = [];
    private readonly byte[]? _backing;
    private readonly PlainCipher? _cipher;
    private FaultyDevice? _faulty;
    private BlockDevice _device;
    private GuestHistory _history;
    private ImageTimeline _images;
    private CrashFeatures Features => _subject.Features;
    private string _closeFailure = string.Empty;
    private long _judged;

    private CrashRun(ICrashSubject subject, ulong seed, CrashRunOptions options)
    {
        _subject = subject;
        _seed = seed;
        _options = options;
        _random = new SeededRandom(seed);
        ImageKind kind = options.Kind ?? ImageKind.Random(_random);
        while (options.Kind is null && !subject.Supports(kind))
            kind = ImageKind.Random(_random);
        _kind = kind;
        _backing = kind.HasBacking ? Stamp.Bytes(0, (int)kind.BackingLength, Tag(0)) : null;
        _disk = new CrashDevice(new CrashClock(), new SectorTable());
        _disk.DiscardZeroes = _random.Chance(70);
        _workload = new CrashWorkload(kind, _random);
        subject.Create(_disk, kind);
        _data = Has(CrashFeatures.Data) ? new CrashDevice(_disk.Clock, _disk.Table) : null;
        if (Has(CrashFeatures.RawData))
            _data!.Resize(kind.Size);
        _images = new ImageTimeline(kind.Size);
        _cipher = subject.CipherOf(_disk.Current);
        int[] initial = CrashJudge.SectorsOf(_disk.Table, _backing, Sectors);
        initial.AsSpan((int)(kind.Size / SectorTable.SectorSize)).Clear();
        _history = NewHistory(initial);
        _device = OpenDevice(_disk, _data, options.Filter);
    }

    private bool FaultWasHit => _faulty?.FailureCount > 0;

    /// <summary>Sectors of the disk at its largest.</summary>
    private int Sectors => (int)(SizeMax / SectorTable.SectorSize);

    /// <summary>Runs the workload of a seed and judges its states.</summary>
    public static CrashRunResult Run(ICrashSubject subject, ulong seed, CrashRunOptions options)
    {
        CrashRun run = new(subject, seed, options);
        string? failure;
        try
        {
            failure = run.Work() ?? run.JudgeStates();
        }
        catch (Exception thrown) when (thrown is BlockException or PlainReaderException or InvalidOperationException)
        {
            failure = run.Report("while the guest worked", thrown.ToString(), run._ops.Count);
        }

        return new CrashRunResult(run._judged, run.FaultWasHit, failure);
    }

    private ulong Tag(int number) => (_seed << 16) + (ulong)number;

    private GuestHistory NewHistory(int[] initial) =>
        new(_disk.Table, initial, Tag(0)) { Compressible = _options.Compressible };

    private BlockDevice OpenDevice(BlockDevice disk, BlockDevice? data, Func<BlockDevice, BlockDevice>? filter) =>
        _subject.Open(filter?.Invoke(disk) ?? disk, _backing is null ? null : new BackingDevice(_backing), data);

    private string? Work()
    {
        Prefill();
        string? wrong = null;
        int rounds = _options.Ops?.Count ?? _options.Rounds;
        for (int round = 1; round <= rounds && wrong is null; round++)
        {
            GuestOp[] ops = _options.Ops is null
                ? MakeRound()
                : [_options.Ops[round - 1] with { Number = round }];
            foreach (GuestOp op in ops)
                op.Round = round;
            _ops.AddRange(ops);
            if (_faulty is not null)
                wrong = DoWithFaults(ops[0]);
            else if (ops.Length == 1)
                Do(ops[0]);
            else
                DoTogether(ops);
            wrong ??= ops[0].ChangesImage ? AddChange(ops[0]) : _history.AddRound(ops, ReadSector);
            if (Has(CrashFeatures.WriteThrough) && !Array.Exists(ops, op => op.HasFailed))
                _history.AddDurable(ops.Max(op => op.End), round);
            if (wrong is null && ops[0].Kind == GuestOpKind.Reopen)
                wrong = CheckClosed();
        }

        wrong ??= CheckLive(_device, _history.Current);
        Close();
        wrong ??= CheckClosedFile();
        return wrong is null ? null : Report("while the guest worked", wrong, _ops.Count);
    }

    /// <summary>Writes some clusters, then forgets the history: they are durable from here on.</summary>
    private void Prefill()
    {
        long clusters = (_kind.Size + _kind.ClusterSize - 1) >> _kind.ClusterBits;
        List<GuestOp> fills = [];
        for (long cluster = 0; cluster < clusters; cluster++)
        {
            if (_random.Chance(_kind.PrefilledPercent))
                fills.Add(_workload.Fill(cluster));
        }

        foreach (GuestOp op in fills)
            _device.Write(op.Offset, _history.BytesOf(op));
        if (fills.Count > 0)
            _device.Flush();
        int[] initial = new int[Sectors];
        for (int sector = 0; sector < LiveSectors; sector++)
            initial[sector] = ReadSector(sector);
        GuestHistory expected = NewHistory(_history.Current.ToArray());
        foreach (GuestOp op in fills)
        {
            op.Begin = op.End = _disk.Clock.Next();
            string? wrong = expected.AddRound([op], sector => initial[sector]);
            if (wrong is not null)
                throw new InvalidOperationException("prefilled disk: " + wrong);
        }

        _device.Dispose();
        if (_kind.Compressed)
        {
            foreach ((long guest, byte[] bytes) in CompressedPrefill.Add(_disk, _random))
            {
                int[] sectors = CrashJudge.SectorsOf(_disk.Table, bytes, bytes.Length / SectorTable.SectorSize);
                sectors.CopyTo(initial, guest / SectorTable.SectorSize);
            }
        }

        _disk.StartRecording();
        _data?.StartRecording();
        _history = NewHistory(initial);
        _device = OpenDevice(WithFault(), _data, _options.Filter);
    }

    private BlockDevice WithFault()
    {
        if (_options.Fault is null)
            return _disk;
        _faulty = new FaultyDevice(_disk) { Enabled = false };
        _faulty.Fail(_options.Fault);
        return _faulty;
    }

    /// <summary>
    /// Closes the image; an engine that met a failed request may say so once more. What the file holds then is judged
    /// like any other state.
    /// </summary>
    private void Close()
    {
        try
        {
            _device.Dispose();
        }
        catch (BlockException failure) when (FaultWasHit)
        {
            _closeFailure = failure.Message;
        }
    }

    private GuestOp[] MakeRound()
    {
        int count = _options.Writers < 2 ? 1 : 1 + _random.Below(_options.Writers);
        if (count == 1 && MakeChange() is { } change)
            return [change];
        GuestOp[] ops = new GuestOp[count];
        for (int i = 0; i < count; i++)
            ops[i] = _workload.Next(mayReopen: count == 1 && _options.Fault is null);
        return ops;
    }

    private void Do(GuestOp op)
    {
        byte[] bytes = op.Kind == GuestOpKind.Write ? _history.BytesOf(op) : [];
        op.Begin = _disk.Clock.Next();
        switch (op.Kind)
        {
            case GuestOpKind.Write:
                _device.Write(op.Offset, bytes);
                break;
            case GuestOpKind.ZeroKeep:
            case GuestOpKind.ZeroUnmap:
                _device.WriteZeroes(op.Offset, op.Length, op.Kind == GuestOpKind.ZeroUnmap);
                break;
            case GuestOpKind.Discard:
                _device.Discard(op.Offset, op.Length);
                break;
            case GuestOpKind.Flush:
                _device.Flush();
                break;
            case GuestOpKind.Reopen:
                _device.Dispose();
                _device = OpenDevice(_disk, _data, _options.Filter);
                break;
            default:
                DoChange(op);
                break;
        }

        op.End = _disk.Clock.Next();
    }

    /// <summary>
    /// An operation may fail only after the request that was to fail has come. After a failed flush no other may
    /// succeed: nobody knows what became of what it was to make durable.
    /// </summary>
    private string? DoWithFaults(GuestOp op)
    {
        if (op.Kind == GuestOpKind.Reopen)
            return "the workload closes the image while a request is to fail";
        bool lostAFlush = FaultWasHit && _options.Fault!.Op == BlockOp.Flush;
        try
        {
            _faulty!.Enabled = true;
            Do(op);
        }
        catch (BlockException) when (FaultWasHit)
        {
            op.HasFailed = true;
            op.End = _disk.Clock.Next();
        }
        finally
        {
            _faulty!.Enabled = false;
        }

        return lostAFlush && op is { Kind: GuestOpKind.Flush, HasFailed: false }
            ? "a flush succeeded although an earlier one had failed"
            : null;
    }

    private void DoTogether(GuestOp[] ops)
    {
        using Barrier start = new(ops.Length);
        Exception?[] failures = new Exception?[ops.Length];
        Thread[] threads = new Thread[ops.Length];
        for (int i = 0; i < ops.Length; i++)
        {
            int mine = i;
            threads[i] = new Thread(() =>
            {
                try
                {
                    start.SignalAndWait();
                    Do(ops[mine]);
                }
                catch (Exception failure)
                {
                    // The thread must not take the process down; the failure is thrown on by the caller.
                    failures[mine] = failure;
                }
            });
            threads[i].IsBackground = true;
            threads[i].Start();
        }

        foreach (Thread thread in threads)
        {
            if (!thread.Join(Eventually.Patience))
                throw new InvalidOperationException("deadlock: " + string.Join(", ", ops.Select(op => op.ToString())));
        }

        Exception? first = Array.Find(failures, failure => failure is not null);
        if (first is not null)
            throw new InvalidOperationException("a writer failed", first);
    }

    private int ReadSector(int sector) => ReadSector(_device, sector);

    private int ReadSector(BlockDevice device, int sector)
    {
        Span<byte> bytes = stackalloc byte[SectorTable.SectorSize];
        device.Read((long)sector * SectorTable.SectorSize, bytes);
        return _disk.Table.Intern(bytes);
    }

    private string? CheckLive(BlockDevice device, ReadOnlySpan<int> expected)
    {
        if (device.Length != _images.Size)
            return $"live disk: {device.Length} bytes instead of {_images.Size}";
        for (int sector = 0; sector < LiveSectors; sector++)
        {
            int id = ReadSector(device, sector);
            if (id != expected[sector])
                return $"live disk: sector {sector} holds {_history.Describe(sector, id, long.MaxValue)}";
        }

        return null;
    }

    private string? CheckClosed() => CheckLive(_device, _history.Current) ?? CheckClosedFile();

    /// <summary>A file that was closed without a crash has no errors, no leaks, and the right content.</summary>
    private string? CheckClosedFile()
    {
        CrashJudge judge = NewJudge();
        PlainReader reader = judge.Open(_disk.Current, _data?.Current);
        if (reader.Header.Dirty && !FaultWasHit)
            return "closed image: it is marked dirty";
        PlainCheck check = reader.Check();
        if (check.Errors.Count > 0)
            return "closed image: " + string.Join("; ", check.Errors);
        if (_subject.LeaksNothing && check.Leaks > 0 && !FaultWasHit)
            return $"closed image: {check.Leaks} leaked clusters";
        return judge.Judge(_disk.Current, long.MaxValue, _data?.Current) is { } wrong ? "closed image: " + wrong : null;
    }
}
