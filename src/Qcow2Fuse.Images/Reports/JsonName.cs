// SPDX-License-Identifier: MIT
using System.Buffers;
using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Images.Reports;

/// <summary>
/// Names in JSON. A byte that is no text is the escape \udcHH, as Python writes it, and comes back as that byte; the
/// class library would make U+FFFD of it.
/// </summary>
internal sealed class JsonName : JsonConverter<string>
{
    private const string ByteEscape = "\\udc";

    /// <summary>Writes a property with a name as value.</summary>
    public static void Write(Utf8JsonWriter json, string property, string? value)
    {
        if (value is null || ByteText.IsText(value))
        {
            json.WriteString(property, value);
            return;
        }

        json.WritePropertyName(property);
        json.WriteRawValue(Quote(value), skipInputValidation: true);
    }

    /// <inheritdoc/>
    public override string? Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        if (reader.TokenType != JsonTokenType.String)
            throw new JsonException("a text is expected");
        byte[] raw = reader.HasValueSequence ? reader.ValueSequence.ToArray() : reader.ValueSpan.ToArray();
        string text = Encoding.UTF8.GetString(raw);
        return text.Contains(ByteEscape, StringComparison.OrdinalIgnoreCase) ? Unescape(text) : reader.GetString();
    }

    /// <inheritdoc/>
    public override void Write(Utf8JsonWriter writer, string value, JsonSerializerOptions options)
    {
        if (ByteText.IsText(value))
            writer.WriteStringValue(value);
        else
            writer.WriteRawValue(Quote(value), skipInputValidation: true);
    }

    private static string Quote(string value)
    {
        StringBuilder quoted = new("\"");
        foreach (char unit in value)
        {
            if (unit is '"' or '\\')
                quoted.Append('\\').Append(unit);
            else if (unit is < ' ' or > '~')
                quoted.Append(CultureInfo.InvariantCulture, $"\\u{(int)unit:x4}");
            else
                quoted.Append(unit);
        }

        return quoted.Append('"').ToString();
    }

    /// <summary>Undoes the escapes of a string that the reader has found to be well formed.</summary>
    private static string Unescape(string text)
    {
        StringBuilder plain = new(text.Length);
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] != '\\')
            {
                plain.Append(text[i]);
                continue;
            }

            char kind = text[++i];
            if (kind == 'u')
            {
                plain.Append((char)ushort.Parse(
                    text.AsSpan(i + 1, 4), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture));
                i += 4;
            }
            else
            {
                plain.Append(kind switch
                {
                    'b' => '\b',
                    'f' => '\f',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    _ => kind,
                });
            }
        }

        return plain.ToString();
    }
}
