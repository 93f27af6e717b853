// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Hosting.Images;

/// <summary>
/// Finds the files of a directory that are images, by their names or by their first bytes. Holds no lock while it asks
/// the file system.
/// </summary>
internal sealed class DirectoryScan(ImageFolder folder, ILogger logger)
{
    private const string UsualEnding = ".qcow2";
    private const int ProbeLength = 512;
    private const int ProbedMax = 1 << 16;

    private readonly Lock _lock = new();
    private readonly Dictionary<string, (FileStamp Stamp, bool IsImage)> _probed = new(StringComparer.Ordinal);
    private bool _hasComplained;
    private bool _isUnreadable;

    /// <summary>Memory for the names of all files, in bytes; what is beyond it is not looked at.</summary>
    public long NameBytesMax { get; init; } = 12 << 20;

    /// <summary>Whether a name alone says that a file is an image.</summary>
    public static bool HasUsualEnding(string name) =>
        name.EndsWith(UsualEnding, StringComparison.OrdinalIgnoreCase);

    /// <summary>
    /// The names of the images, in no order; null where the directory cannot be read now: those stay that were known.
    /// </summary>
    /// <param name="isWhole">Whether all files were looked at.</param>
    public List<string>? Images(out bool isWhole)
    {
        try
        {
            List<string> names = folder.Names(NameBytesMax, out isWhole);
            DropOld(names);
            names.RemoveAll(name => !IsImage(name));
            _isUnreadable = false;
            return names;
        }
        catch (BlockException exception)
        {
            if (!_isUnreadable)
                HostLog.DirectoryFailed(logger, folder.Path, exception.Message);
            _isUnreadable = true;
            isWhole = true;
            return null;
        }
    }

    /// <summary>Whether a name is that of an image now.</summary>
    /// <exception cref="BlockException">The system does not tell whose the directory is.</exception>
    public bool IsImage(string name)
    {
        FileStamp stamp = FileStamp.Of(folder.Look(name));
        if (HasUsualEnding(name) || stamp.Length < 0)
        {
            if (HasUsualEnding(name) && stamp.Length < 0)
                Complain(name);
            return stamp.Length >= 0;
        }

        lock (_lock)
        {
            if (_probed.TryGetValue(name, out (FileStamp Stamp, bool IsImage) known) && known.Stamp == stamp)
                return known.IsImage;
        }

        bool isImage = IsRecognised(name);
        lock (_lock)
        {
            // Names that come and go between two looks at the directory are no more than this.
            if (_probed.Count >= ProbedMax)
                _probed.Clear();
            _probed[name] = (stamp, isImage);
        }

        return isImage;
    }

    private void DropOld(List<string> names)
    {
        lock (_lock)
        {
            if (_probed.Count <= names.Count)
                return;
            foreach (string gone in _probed.Keys.Except(names, StringComparer.Ordinal).ToArray())
                _ = _probed.Remove(gone);
        }
    }

    /// <summary>Says once why a file is not shown: others may make as many as they like.</summary>
    private void Complain(string name)
    {
        if (_hasComplained || folder.RefusalOf(name) is not { } reason)
            return;
        _hasComplained = true;
        HostLog.NotAnImage(logger, reason);
    }

    /// <summary>Whether the first bytes are of a known format.</summary>
    private bool IsRecognised(string name)
    {
        try
        {
            using FileDevice file = folder.Open(name);
            byte[] head = new byte[(int)Math.Min(ProbeLength, file.Length)];
            file.Read(0, head);
            return ImageFormats.Openers.Any(format => format.Probe(head));
        }
        catch (BlockException)
        {
            // It has gone, or is nothing for this user: no image as far as can be seen.
            return false;
        }
    }
}
