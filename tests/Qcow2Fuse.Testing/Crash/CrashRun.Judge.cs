// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing.Faults;

namespace Qcow2Fuse.Testing.Crash;

/// <content>The states after the workload.</content>
public sealed partial class CrashRun
{
    private const int OpsShown = 14;

    private CrashJudge NewJudge() =>
        new(_disk.Table, _history, _backing, _cipher) { Timeline = _images, Features = Features };

    /// <summary>The states of one file, in step with those of the other one.</summary>
    private CrashStates StatesOf(CrashDevice file, CrashDevice? other, ulong seed)
    {
        IEnumerable<long> moments = _ops
            .Where(op => op.ChangesImage || op.Kind == GuestOpKind.Flush || Has(CrashFeatures.WriteThrough))
            .Select(op => op.End);
        if (other is not null)
            moments = moments.Concat(CrashStates.MomentsOf(other.Log));
        return new CrashStates(file.Initial, [.. file.Log], seed, _options.States, moments);
    }

    private string? JudgeStates()
    {
        CrashJudge judge = NewJudge();
        CrashRecovery recovery = new(_disk, (disk, data) => OpenDevice(disk, data, null), _workload, _history);
        CrashStates states = StatesOf(_disk, _data, _seed ^ 0xC4A5);
        CrashStates? dataStates = _data is null ? null : StatesOf(_data, _disk, _seed ^ 0xDA7A);
        while (states.Next())
        {
            if (dataStates is not null && !(dataStates.Next() && dataStates.Time == states.Time))
                throw new InvalidOperationException("the states of the two files are out of step");
            _judged++;
            SectorImage? data = dataStates?.State;
            string? wrong = judge.Judge(states.State, states.Time, data)
                ?? _options.SecondJudge?.Invoke(states.State, _backing, judge.Open(states.State, data));
            if (wrong is null && _options.RecoverEvery > 0 && _judged % _options.RecoverEvery == 0)
                wrong = recovery.Try(states.State, data, judge, states.Time);
            if (wrong is not null)
            {
                int begun = _ops.Count(op => op.Begin <= states.Time);
                string both = dataStates is null ? string.Empty : "\n  data file: " + dataStates.Describe();
                return Report(states.Describe() + both, wrong, begun);
            }
        }

        return null;
    }

    private string Report(string when, string wrong, int begun)
    {
        string hex = string.Create(CultureInfo.InvariantCulture, $"0x{_seed:x}");
        IEnumerable<GuestOp> shown = _ops.Take(begun).TakeLast(OpsShown);
        string again = _options.Ops is null && _options.Fault is null
            ? $"QCOW2FUSE_CRASH_SEED={hex} QCOW2FUSE_CRASH_STATES={_options.States} "
                + $"QCOW2FUSE_CRASH_WRITERS={_options.Writers} {_subject.Environment}".TrimEnd()
                + " dotnet test tests/Qcow2Fuse.Qcow2.Tests --filter Crash_states_of_one_seed"
            : "dotnet test tests/Qcow2Fuse.Qcow2.Tests --filter "
                + (_options.Fault is null ? "Crash_states_of_all_short" : "Crash_states_after_a_failed_request");
        string with = _options.Fault is null ? string.Empty : $"\n  with {_options.Fault} {_closeFailure}";
        return $"{_subject.Name}, {_kind}, {_options.Writers} writer(s), seed {hex}: {wrong}\n"
            + $"  {when}{with}\n  operations up to then ({begun} in all):\n    {string.Join("\n    ", shown)}\n"
            + $"  again: {again}";
    }
}
