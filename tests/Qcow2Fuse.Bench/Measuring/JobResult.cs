// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Bench;

/// <summary>What all subjects made of a job.</summary>
public sealed class JobResult(Job job)
{
    private readonly Dictionary<Subject, Series> _series = [];

    /// <summary>The job.</summary>
    public Job Job => job;

    /// <summary>Who took part.</summary>
    public IEnumerable<KeyValuePair<Subject, Series>> All => _series;

    /// <summary>The plain file's runs, or null.</summary>
    public Series? Raw => Find(static subject => subject.IsRaw);

    /// <summary>The runs of the peer that was fastest, or null.</summary>
    public Series? BestPeer => _series
        .Where(static pair => !pair.Key.IsOwn && !pair.Key.IsRaw && pair.Value.HasRuns)
        .Select(static pair => pair.Value)
        .MaxBy(static series => series.PerSecond);

    /// <summary>A subject's runs, or null.</summary>
    public Series? Find(Subject subject) => Find(one => one == subject);

    /// <summary>A subject against the best peer, or null.</summary>
    public double? PeerRatio(Subject subject) => Ratio(Find(subject), BestPeer);

    /// <summary>A subject against the plain file, or null.</summary>
    public double? RawRatio(Subject subject) => Ratio(Find(subject), Raw);

    /// <summary>Whether a subject reaches every ratio aimed at.</summary>
    public bool IsReached(Subject subject) =>
        IsAtLeast(PeerRatio(subject), job.PeerBar) && IsAtLeast(RawRatio(subject), job.RawBar);

    /// <summary>The runs of a subject, none yet at first.</summary>
    public Series Of(Subject subject)
    {
        if (!_series.TryGetValue(subject, out Series? series))
            _series.Add(subject, series = new Series());
        return series;
    }

    private Series? Find(Func<Subject, bool> isMeant) =>
        _series.FirstOrDefault(pair => isMeant(pair.Key) && pair.Value.HasRuns).Value;

    private static double? Ratio(Series? own, Series? other) =>
        own is null || other is null ? null : own.PerSecond / other.PerSecond;

    private static bool IsAtLeast(double? ratio, double? bar) => bar is null || ratio >= bar;
}
