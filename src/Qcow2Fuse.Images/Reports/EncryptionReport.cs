// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Text.Json;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Qcow2.Device;
using Qcow2Fuse.Qcow2.Encryption;

namespace Qcow2Fuse.Images.Reports;

/// <summary>
/// What <c>info</c> says about the encryption of an image, in the words of <c>qemu-img info</c>; no passphrase is
/// needed for it.
/// </summary>
public static class EncryptionReport
{
    /// <summary>The lines of the text form, without the line that names the block.</summary>
    public static IEnumerable<string> Lines(Qcow2ImageInfo image)
    {
        if (image.Luks is not { } luks)
        {
            yield return "format: aes";
            yield break;
        }

        foreach ((string key, string value) in Fields(luks))
            yield return $"{key.Replace('-', ' ')}: {Printable.Text(value)}";
        yield return "slots:";
        foreach (LuksSlot slot in luks.Slots)
        {
            yield return Line($"    [{slot.Index}]:");
            yield return $"        active: {(slot.IsActive ? "true" : "false")}";
            if (slot.IsActive)
                yield return Line($"        iters: {slot.Iterations}");
            yield return Line($"        key offset: {slot.MaterialOffset}");
            if (slot.IsActive)
                yield return Line($"        stripes: {slot.Stripes}");
        }

        yield return Line($"payload offset: {luks.PayloadOffset}");
        yield return Line($"master key iters: {luks.MasterIterations}");
    }

    /// <summary>The object <c>encrypt</c> of the JSON form.</summary>
    public static void Write(Qcow2ImageInfo image, Utf8JsonWriter json)
    {
        json.WriteStartObject("encrypt");
        if (image.Luks is { } luks)
        {
            foreach ((string key, string value) in Fields(luks))
                json.WriteString(key, value);
            json.WriteStartArray("slots");
            foreach (LuksSlot slot in luks.Slots)
            {
                json.WriteStartObject();
                json.WriteBoolean("active", slot.IsActive);
                if (slot.IsActive)
                    json.WriteNumber("iters", slot.Iterations);
                json.WriteNumber("key-offset", slot.MaterialOffset);
                if (slot.IsActive)
                    json.WriteNumber("stripes", slot.Stripes);
                json.WriteEndObject();
            }

            json.WriteEndArray();
            json.WriteNumber("payload-offset", luks.PayloadOffset);
            json.WriteNumber("master-key-iters", luks.MasterIterations);
        }
        else
        {
            json.WriteString("format", "aes");
        }

        json.WriteEndObject();
    }

    private static IEnumerable<(string Key, string Value)> Fields(LuksHeader luks)
    {
        string[] mode = luks.CipherMode.Split('-', 2);
        string[] iv = (mode.Length > 1 ? mode[1] : "").Split(':', 2);

        // The key of xts is two keys of the cipher.
        int bits = luks.KeyBytes * (mode[0] is "xts" ? 4 : 8);
        yield return ("ivgen-alg", iv[0]);
        yield return ("hash-alg", luks.HashName);
        yield return ("cipher-alg", Line($"{luks.CipherName}-{bits}"));
        yield return ("uuid", luks.Uuid);
        if (iv.Length > 1)
            yield return ("ivgen-hash-alg", iv[1]);
        yield return ("format", "luks");
        yield return ("cipher-mode", mode[0]);
    }

    private static string Line(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
