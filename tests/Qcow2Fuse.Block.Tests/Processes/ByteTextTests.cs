// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;
using Xunit;

namespace Qcow2Fuse.Block.Tests;

/// <summary>Names are bytes, and a string has them all.</summary>
public sealed class ByteTextTests
{
    [Fact]
    public void Any_bytes_come_back()
    {
        Random random = new(1);
        for (int i = 0; i < 20_000; i++)
        {
            byte[] bytes = new byte[random.Next(12)];
            random.NextBytes(bytes);

            // Half of them are nearly text.
            if (i % 2 == 0)
                bytes = [.. Encoding.UTF8.GetBytes("a\u00E9\U0001F600\uFFFD"[..random.Next(1, 6)]), .. bytes];
            string text = ByteText.Decode(bytes);
            Assert.Equal(bytes, ByteText.Encode(text));
            Assert.Equal(bytes.Length, ByteText.CountBytes(text));
            Assert.Equal(System.Text.Unicode.Utf8.IsValid(bytes), ByteText.IsText(text));
        }
    }

    [Fact]
    public void Every_pair_of_bytes_has_a_string_of_its_own()
    {
        HashSet<string> seen = new(StringComparer.Ordinal);
        for (int i = 0; i < 65536; i++)
            Assert.True(seen.Add(ByteText.Decode([(byte)(i >> 8), (byte)i])));
    }

    [Fact]
    public void Text_stays_text_and_bytes_are_shown_as_bytes()
    {
        // Not as data of a theory: attributes cannot hold such strings.
        (string Text, string Shown)[] names =
        [
            ("caf\u00E9", "caf\u00E9"),
            ("\U0001F600", "\U0001F600"),
            ("caf\uDCE9", @"caf\xe9"),
            ("\U0001F600\uDC80", "\U0001F600" + @"\x80"),
        ];
        foreach ((string text, string shown) in names)
        {
            Assert.Equal(shown, Printable.Text(text));
            Assert.Equal(text, ByteText.Decode(ByteText.Encode(text)));
        }
    }

    [Fact]
    public void Files_are_found_listed_and_told_apart_by_their_bytes()
    {
        using ScratchDirectory scratch = new();
        string[] names = ["caf\uDCE9", "caf\uDCE8", "caf\uFFFD", "caf?", "caf\u00E9", new string('\uDCFF', 255)];
        foreach (string name in names)
        {
            using FileDevice file = FileDevice.Create(scratch.At(name), replace: false);
            file.Write(0, ByteText.Encode(name));
        }

        foreach (string name in names)
        {
            Assert.True(LinuxPath.IsFile(scratch.At(name)));
            using FileDevice file = FileDevice.Open(scratch.At(name), readOnly: true);
            byte[] content = new byte[file.Length];
            file.Read(0, content);
            Assert.Equal(name, ByteText.Decode(content));
            Assert.Equal(scratch.At(name), LinuxPath.LinkTarget($"/proc/self/fd/{file.Descriptor}"));
        }

        using (ImageFolder folder = ImageFolder.Open(scratch.At("."), isShared: false, []))
        {
            List<string> found = folder.Names(1 << 20, out bool isWhole);
            Assert.Equal(names.Order(StringComparer.Ordinal), found.Order(StringComparer.Ordinal));
            Assert.True(isWhole);
        }

        Assert.False(LinuxPath.Exists(scratch.At("caf\uDCE7")));

        // The class library cannot.
        int directory = LinuxFile.Open(scratch.At("."), OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        foreach (string name in names)
            Assert.Equal(0, LinuxDirectory.Unlink(directory, name));
        Assert.Equal(0, LinuxFile.Close(directory));
    }
}
