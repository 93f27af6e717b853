// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Core;

/// <summary>Changing the parts of the header that have no fixed place.</summary>
/// <remarks>
/// A crash at any moment leaves the old header or the new one. What the old header does not use is written first and
/// made durable, then the one sector that is in use changes. Where that would be several sectors, the new list of
/// extensions is built beside both lists, sector 0 moves the end of the header there (<c>header_length</c>: what lies
/// before is then an unknown field of a longer header), and the same way back puts it where it belongs.
/// </remarks>
internal sealed partial class HeaderStore
{
    private bool _rewriting;

    /// <summary>
    /// Sets the content of the extension of one type, adds it at the end of the list, or removes it where
    /// <paramref name="content"/> is null; see <see cref="Rewrite"/>.
    /// </summary>
    public void UpdateExtension(uint type, byte[]? content, Action barrier) => Rewrite(
        header =>
        {
            var extensions = new List<HeaderExtension>(header.Extensions);
            int index = extensions.FindIndex(extension => extension.Type == type);
            if (content is null)
                extensions.RemoveAll(extension => extension.Type == type);
            else if (index < 0)
                extensions.Add(new HeaderExtension(type, content));
            else
                extensions[index] = new HeaderExtension(type, content);
            return header with { Extensions = extensions };
        },
        barrier);

    /// <summary>
    /// Changes fields, extensions and the backing file's name, all or nothing. Extensions that are not changed keep
    /// their bytes and their order. The change is durable after the next flush of the file. The gate is held and
    /// released meanwhile; others may call <see cref="Update"/>, a second caller of this method waits.
    /// </summary>
    /// <param name="change">What to change; called several times, each time with the present header.</param>
    /// <param name="barrier">Flushes the file with the gate held, which it may release:
    /// <c>DurableFile.Barrier</c>.</param>
    /// <exception cref="BlockException">
    /// <see cref="BlockErrorKind.NotSupported"/> when the first cluster has no room; nothing has changed then.
    /// </exception>
    public void Rewrite(Func<Qcow2Header, Qcow2Header> change, Action barrier)
    {
        _gate.AssertHeld();
        while (_rewriting)
            _gate.Wait();
        _rewriting = true;
        try
        {
            RewriteAlone(change, barrier);
        }
        finally
        {
            _rewriting = false;
            _gate.PulseAll();
        }
    }

    private void RewriteAlone(Func<Qcow2Header, Qcow2Header> change, Action barrier)
    {
        if (TryCommit(change, moveName: false, barrier))
            return;
        int stage = PlanStage(change);
        int home = _current.HeaderLength;
        if (!TryCommit(header => change(header) with { HeaderLength = stage }, moveName: true, barrier))
            throw NoRoom();
        barrier();
        if (!TryCommit(header => header with { HeaderLength = home }, moveName: false, barrier))
            throw new InvalidOperationException("A staged header does not go back to its place.");
    }

    /// <summary>
    /// Changes the header if that can be done by preparing what is unused and then writing one sector that is used.
    /// </summary>
    private bool TryCommit(Func<Qcow2Header, Qcow2Header> change, bool moveName, Action barrier)
    {
        int last;
        lock (_lock)
        {
            HeaderCluster old = HeaderCluster.Read(_file, _current);
            HeaderCluster changed = old.With(change(_current), moveName) ?? throw NoRoom();
            List<int> sectors = old.SectorsThatDiffer(changed);
            List<int> inUse = sectors.FindAll(sector => !old.IsUnusedWhereChanged(changed, sector));
            if (inUse.Count > 1)
                return false;
            last = inUse.Count == 1 ? inUse[0] : -1;
            sectors.Remove(last);
            WriteSectors(changed, sectors);
            if (sectors.Count == 0 || last < 0)
            {
                WriteSectors(changed, inUse);
                Adopt(changed.Header);
                return true;
            }
        }

        barrier();
        lock (_lock)
        {
            HeaderCluster old = HeaderCluster.Read(_file, _current);
            HeaderCluster changed = old.With(change(_current), moveName)!;
            WriteSectors(changed, [last]);
            Adopt(changed.Header);
        }

        return true;
    }

    /// <summary>Where a copy of the new list and name touches neither the old ones nor their final place.</summary>
    private int PlanStage(Func<Qcow2Header, Qcow2Header> change)
    {
        lock (_lock)
        {
            HeaderCluster old = HeaderCluster.Read(_file, _current);
            HeaderCluster changed = old.With(change(_current), moveName: false) ?? throw NoRoom();
            int lists = Math.Max(old.ListEnd, changed.ListEnd);
            foreach (int end in (ReadOnlySpan<int>)[lists, old.NameEnd, changed.NameEnd])
            {
                int stage = (end + 7) & ~7;
                int stageEnd = stage + changed.ListEnd - changed.Header.HeaderLength + changed.Header.BackingNameBytes;
                if (_current.Version > 2 && stage >= lists && stageEnd <= old.Bytes.Length
                    && !old.HasNameIn(stage, stageEnd) && !changed.HasNameIn(stage, stageEnd))
                    return stage;
            }

            throw NoRoom();
        }
    }

    private void WriteSectors(HeaderCluster cluster, List<int> sectors)
    {
        foreach (int sector in sectors)
        {
            int start = sector * HeaderCluster.SectorBytes;
            _file.Write(start, cluster.Bytes.AsSpan(start, HeaderCluster.SectorBytes));
        }
    }

    private void Adopt(Qcow2Header header)
    {
        _current = header with
        {
            BackingFile = header.BackingNameBytes == 0 ? null : header.BackingFile,
            BackingFormat = TextOf(header, HeaderExtension.BackingFormat),
            DataFile = TextOf(header, HeaderExtension.DataFile),
        };
    }

    private static string? TextOf(Qcow2Header header, uint type)
    {
        foreach (HeaderExtension extension in header.Extensions)
        {
            if (extension.Type == type)
                return ByteText.Decode(extension.Content.Span.TrimEnd((byte)0));
        }

        return null;
    }

    private BlockException NoRoom() => new(
        BlockErrorKind.NotSupported, $"{_file.Name}: the first cluster has no room for this change of the header");
}
