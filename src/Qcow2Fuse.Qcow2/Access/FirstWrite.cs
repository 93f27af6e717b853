// SPDX-License-Identifier: MIT
using Qcow2Fuse.Qcow2.Bitmaps;
using Qcow2Fuse.Qcow2.Core;
using Qcow2Fuse.Qcow2.Layout;
using Qcow2Fuse.Qcow2.Metadata;

namespace Qcow2Fuse.Qcow2.Access;

/// <summary>
/// What happens before the guest writes for the first time. Until then not a byte of the file changes.
/// </summary>
internal sealed class FirstWrite(
    ImageCore image, DurableFile durable, GuardSurvey survey, MetadataFlush flush, BitmapLife bitmaps)
{
    private volatile bool _hasBegun;
    private bool _isMarkedDirty;

    /// <summary>Whether the image was prepared for the guest's writes.</summary>
    public bool HasBegun => _hasBegun;

    /// <summary>
    /// Loads the bitmaps of an image that is opened for writing, and takes the memory that its first write needs.
    /// </summary>
    /// <param name="dropsBitmaps">They cannot be kept and the user gives them up.</param>
    public void Reserve(bool dropsBitmaps)
    {
        bitmaps.Read(dropsBitmaps);
        using (image.Gate.Enter())
        {
            survey.Reserve(more: 0);
            bitmaps.LoadRecording();
        }
    }

    /// <summary>
    /// Checks that the image can be written, and prepares it for its first write: before every write, and before what
    /// changes the image as a whole.
    /// </summary>
    public void Begin()
    {
        image.CheckWritable();
        image.Corrupt.ThrowIfFound();
        if (_hasBegun && survey.IsComplete)
            return;
        image.Corrupt.Guard(Prepare);
        _hasBegun = true;
    }

    /// <summary>
    /// Takes the mark off an image that was marked dirty, as the last step of a clean close. The gate is held.
    /// </summary>
    public void TakeBack()
    {
        image.Gate.AssertHeld();
        if (!_isMarkedDirty)
            return;
        image.Header.Update(
            static header => header with { Incompatible = header.Incompatible & ~FeatureBits.Dirty });
        durable.Barrier();
    }

    /// <summary>
    /// Makes the file ready to be written by the guest: all metadata is known to the overlap guard, bitmaps that record
    /// are marked in use, autoclear bits that vouch for what nobody here keeps are cleared (specification section
    /// "Header", autoclear_features), and an image with lazy refcounts is marked dirty. Durable on return.
    /// </summary>
    private void Prepare()
    {
        using (image.Gate.Enter())
        {
            bitmaps.BeginChange();
            try
            {
                if (!bitmaps.HasGuestWrites)
                    PrepareAlone();
                bitmaps.HasGuestWrites = true;
                survey.Ensure();
            }
            finally
            {
                bitmaps.EndChange();
            }
        }
    }

    private void PrepareAlone()
    {
        durable.ThrowIfFailed();
        bitmaps.ClearAutoclear();
        survey.Ensure();
        bitmaps.MarkInUse(static bitmap => bitmap.IsEnabled || bitmap.IsMarked);
        if ((image.Header.Current.Compatible & FeatureBits.LazyRefcounts) == 0)
            return;
        image.Header.Update(
            static header => header with { Incompatible = header.Incompatible | FeatureBits.Dirty });
        durable.Barrier();
        _isMarkedDirty = true;
        flush.BeginLazy();
    }
}
