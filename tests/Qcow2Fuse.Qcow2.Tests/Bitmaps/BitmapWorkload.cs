// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Testing;

namespace Qcow2Fuse.Qcow2.Tests.Bitmaps;

/// <summary>
/// Random operations of a guest and on bitmaps, each done on the image and on the model. A step changes the model
/// before it runs, so that a step that fails or is cut off lies between two known models.
/// </summary>
internal sealed class BitmapWorkload(SeededRandom random, BitmapModel model)
{
    private const int BitmapsMax = 4;
    private static readonly string[] Names = ["a", "bitmap-1", "nightly backup", "zzzz"];

    /// <summary>The disk may grow.</summary>
    public bool MayResize { get; init; } = true;

    /// <summary>The model after the last step.</summary>
    public BitmapModel Model { get; private set; } = model;

    /// <summary>The model before the last step.</summary>
    public BitmapModel Before { get; private set; } = model;

    /// <summary>What the last step was.</summary>
    public string LastStep { get; private set; } = "nothing";

    /// <summary>The last step changed the size of the disk.</summary>
    public bool LastWasResize { get; private set; }

    /// <summary>Chooses a step; run it with the device.</summary>
    public Action<Qcow2Device> Next()
    {
        Before = Model.Copy();
        LastWasResize = false;
        string[] present = [.. Model.Bitmaps.Keys];
        int dice = random.Below(100);
        if (present.Length == 0 || (dice < 10 && present.Length < BitmapsMax))
            return Add(present);
        string name = random.Pick(present);
        switch (dice)
        {
            case < 14:
                Model.Bitmaps.Remove(name);
                return Step($"remove {name}", device => device.RemoveBitmap(name));
            case < 20:
                Model.Clear(name);
                return Step($"clear {name}", device => device.ClearBitmap(name));
            case < 27:
                Model.SetEnabled(name, enabled: false);
                return Step($"disable {name}", device => device.DisableBitmap(name));
            case < 36:
                Model.SetEnabled(name, enabled: true);
                return Step($"enable {name}", device => device.EnableBitmap(name));
            case < 44:
                string other = random.Pick(present);
                Model.Merge(name, other);
                return Step($"merge {name} into {other}", device => device.MergeBitmap(name, other));
            case < 48 when MayResize:
                long size = Model.Size + (512L * random.Below(2000));
                Model.Resize(size);
                LastWasResize = true;
                return Step($"resize to {size}", device => device.Resize(size));
            case < 56:
                return Step("flush", device => device.Flush());
            default:
                return Change(dice);
        }
    }

    private Action<Qcow2Device> Add(string[] present)
    {
        string name = random.Pick([.. Names.Except(present)]);
        int bits = random.Pick(9, 9, 10, 12, 16, 20, 31);
        bool enabled = random.Chance(70);
        Model.Add(name, bits, enabled);
        return Step(
            string.Create(CultureInfo.InvariantCulture, $"add {name} 2^{bits} {enabled}"),
            device => device.AddBitmap(name, 1L << bits, enabled));
    }

    private Action<Qcow2Device> Change(int dice)
    {
        int length = 1 + random.Below(random.Chance(20) ? 200_000 : 5000);
        length = (int)Math.Min(length, Model.Size);
        long offset = random.Below(Model.Size - length + 1);
        Model.Write(offset, length);
        string range = string.Create(CultureInfo.InvariantCulture, $"{offset}+{length}");
        return dice switch
        {
            < 64 => Step("zero " + range, device => device.WriteZeroes(offset, length, mayUnmap: dice % 2 == 0)),
            < 72 => Step("discard " + range, device => device.Discard(offset, length)),
            _ => Step("write " + range, device => device.Write(offset, Stamp.Bytes(offset, length, (ulong)dice))),
        };
    }

    private Action<Qcow2Device> Step(string what, Action<Qcow2Device> action)
    {
        LastStep = what;
        return action;
    }
}
