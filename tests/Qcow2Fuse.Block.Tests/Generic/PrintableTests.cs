// SPDX-License-Identifier: MIT
using System.Text;
using System.Text.Json;
using Qcow2Fuse.Block.Errors;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

/// <summary>What is escaped before it is shown.</summary>
public sealed class PrintableTests
{
    private const string Plain = "disk 1 (ä, 日本, 🐧) \\ \" ' %s";

    [Theory]
    [InlineData("a\nb", @"a\x0ab")]
    [InlineData("a\r\tb\0", @"a\x0d\x09b\x00")]
    [InlineData("\u001b[31m\u007f", @"\x1b[31m\x7f")]
    [InlineData("\u009b31m\u0085", @"\x9b31m\x85")]
    [InlineData("\u202egpj\u200b\u2028\ufeff", @"\u{202e}gpj\u{200b}\u{2028}\u{feff}")]
    [InlineData("\udb40\udc41", @"\u{e0041}")]
    [InlineData(Plain, Plain)]
    public void One_line_stays_one_and_moves_no_cursor(string text, string shown)
    {
        Assert.Equal(shown, Printable.Text(text));
        Assert.Equal(shown, Printable.Text(shown));
    }

    [Fact]
    public void Halves_of_characters_are_escaped()
    {
        // No attribute can hold them.
        Assert.Equal(@"\u{d800}x\u{dc00}", Printable.Text("\ud800x\udc00"));
    }

    [Fact]
    public void In_several_lines_only_their_ends_stay()
    {
        Assert.Equal("a\\x1b\n\nb\\x0d\n", Printable.Lines("a\u001b\n\nb\r\n"));
        Assert.Equal(Plain, Printable.Lines(Plain));
    }

    [Fact]
    public void JSON_means_the_same_and_has_no_controls_in_it()
    {
        string name = string.Concat(Enumerable.Range(0, 0x2100).Where(static one => one is < 0xd800 or > 0xdfff)
            .Select(static one => ((Rune)one).ToString())) + "\ufeff\udb40\udc41🐧";
        JsonSerializerOptions relaxed = new()
        { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
        string json = Printable.Json(JsonSerializer.Serialize(new[] { name }, relaxed));
        Assert.Equal([name], JsonSerializer.Deserialize<string[]>(json)!);
        Assert.Equal(json, Printable.Lines(json));
        Assert.Equal(3, json.Split('\n').Length);
        Assert.Contains("ä", json, StringComparison.Ordinal);
        Assert.Contains(@"\u202E", json, StringComparison.OrdinalIgnoreCase);
        Assert.Equal(@"""\uDB40\uDC41🐧""", Printable.Json("\"\udb40\udc41🐧\""));
    }
}
