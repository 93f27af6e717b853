// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Qcow2.Layout;

namespace Qcow2Fuse.Qcow2.Core;

/// <summary>
/// The header of an open image: what it says now, and the only way it is changed. Safe to use from any thread, with or
/// without the image's gate; nothing else is locked while it writes.
/// </summary>
internal sealed partial class HeaderStore
{
    private readonly BlockDevice _file;
    private readonly ImageGate _gate;
    private readonly Lock _lock = new();
    private volatile Qcow2Header _current;

    public HeaderStore(BlockDevice file, Qcow2Header header, ImageGate gate)
    {
        _file = file;
        _gate = gate;
        _current = header;
    }

    /// <summary>The header as it was last written.</summary>
    public Qcow2Header Current => _current;

    /// <summary>
    /// Changes fields by one write that covers them all. They lie in one sector, so after a crash either all of them
    /// are changed or none is. The change is durable after the next flush of the file.
    /// </summary>
    public void Update(Func<Qcow2Header, Qcow2Header> change)
    {
        lock (_lock)
        {
            Qcow2Header old = _current;
            Qcow2Header changed = change(old);
            int length = Math.Min(Qcow2HeaderWriter.FieldsBytes(changed), Qcow2HeaderWriter.Version3Bytes);
            Span<byte> before = stackalloc byte[Qcow2HeaderWriter.Version3Bytes];
            Span<byte> after = stackalloc byte[Qcow2HeaderWriter.Version3Bytes];
            before.Clear();
            after.Clear();
            Qcow2HeaderWriter.Encode(old, before);
            Qcow2HeaderWriter.Encode(changed, after);
            int first = before[..length].CommonPrefixLength(after);
            if (first == length)
                return;
            int end = length;
            while (before[end - 1] == after[end - 1])
                end--;
            _file.Write(first, after[first..end]);
            _current = changed;
        }
    }
    /// <summary>
    /// Writes the fields once more as <see cref="Current"/> has them, after an <see cref="Update"/> that failed: the
    /// new fields may have reached the file although the request failed.
    /// </summary>
    public void Reassert()
    {
        lock (_lock)
        {
            int length = Math.Min(Qcow2HeaderWriter.FieldsBytes(_current), Qcow2HeaderWriter.Version3Bytes);
            Span<byte> fields = stackalloc byte[Qcow2HeaderWriter.Version3Bytes];
            fields.Clear();
            Qcow2HeaderWriter.Encode(_current, fields);
            _file.Write(0, fields[..length]);
        }
    }
}
