// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Errors;

namespace Qcow2Fuse.Qcow2.Check;

/// <summary>What a check has found so far: all of it is counted, and the first findings have a text.</summary>
internal sealed class CheckFindings
{
    private readonly List<CheckFinding> _texts = [];
    private FindingKind _noted;

    /// <summary>The findings with a text.</summary>
    public IReadOnlyList<CheckFinding> Texts => _texts;

    /// <summary>How many findings are damage.</summary>
    public long Corruptions { get; private set; }

    /// <summary>How many findings are <see cref="FindingKind.Leak"/>.</summary>
    public long Leaks { get; private set; }

    /// <summary>How many findings are <see cref="FindingKind.Unreadable"/>.</summary>
    public long CheckErrors { get; private set; }

    /// <summary>How many findings are of the kind <see cref="FindingKind.CopiedFlag"/>.</summary>
    public long CopiedErrors { get; private set; }

    /// <summary>
    /// Whether something was met that only leaks, refcounts too low and COPIED flags cannot explain.
    /// </summary>
    public bool HasUnexplained { get; private set; }

    /// <summary>
    /// Counts a finding; true if its text is wanted as well, which the caller then gives to <see cref="Note"/>.
    /// </summary>
    public bool Noted(FindingKind kind, uint times = 1)
    {
        if (kind == FindingKind.Leak)
            Leaks += times;
        else if (kind == FindingKind.Unreadable)
            CheckErrors += times;
        else
            Corruptions += times;
        if (kind == FindingKind.CopiedFlag)
            CopiedErrors += times;
        HasUnexplained |= kind is FindingKind.Overlap or FindingKind.InvalidEntry or FindingKind.Unreadable;
        _noted = kind;
        return _texts.Count < CheckResult.FindingsMax;
    }

    /// <summary>The text of the finding that was counted last.</summary>
    /// <param name="place">Host offset.</param>
    /// <param name="text">One line.</param>
    public void Note(long place, string text) => _texts.Add(new CheckFinding(_noted, place, text));

    /// <summary>Does something that reads; a failure to read is a finding.</summary>
    public void Reading(long place, string what, Action read)
    {
        try
        {
            read();
        }
        catch (BlockException failure) when (failure.Kind == BlockErrorKind.Io)
        {
            if (Noted(FindingKind.Unreadable))
                Note(place, $"{what} at 0x{place:x} cannot be read");
        }
    }
}
