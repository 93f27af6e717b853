// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Crypto;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Device;

/// <summary>Memory for keys and passphrases.</summary>
public sealed class SecretMemoryTests
{
    [Fact]
    public void It_holds_what_it_was_given()
    {
        using SecretMemory memory = new("a passphrase"u8);
        Assert.True(memory.Span.SequenceEqual("a passphrase"u8));
        Assert.True(memory.Memory.Span.SequenceEqual("a passphrase"u8));
        using SecretMemory empty = new(100);
        Assert.False(empty.Span.ContainsAnyExcept((byte)0));
    }

    /// <summary>As the kernel tells of its pages: "dd" is not in core files, "wf" wiped in children, "lo" locked.
    /// </summary>
    [Fact]
    public void Its_pages_are_left_out_of_core_files_and_children_and_locked()
    {
        using SecretMemory memory = new(4096);
        string flags = FlagsOf(memory);
        Assert.Contains(" dd", flags, StringComparison.Ordinal);
        Assert.Contains(" wf", flags, StringComparison.Ordinal);

        // 8 MiB may be locked by anybody since Linux 5.16, 64 KiB before.
        Assert.Contains(" lo", flags, StringComparison.Ordinal);
    }

    [Fact]
    public void It_is_gone_after_dispose()
    {
        SecretMemory memory = new("a passphrase"u8);
        memory.Dispose();
        Assert.Throws<ObjectDisposedException>(() => memory.Span.Length);
        memory.Dispose();
    }

    private static unsafe string FlagsOf(SecretMemory memory)
    {
        fixed (byte* bytes = memory.Span)
        {
            ulong address = (ulong)bytes;
            bool isHere = false;
            foreach (string line in File.ReadLines("/proc/self/smaps"))
            {
                string range = line.Split(' ')[0];
                if (range.Split('-') is [var first, var last]
                    && ulong.TryParse(first, NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong start)
                    && ulong.TryParse(last, NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong end))
                {
                    isHere = address >= start && address < end;
                }
                else if (isHere && line.StartsWith("VmFlags:", StringComparison.Ordinal))
                {
                    return line;
                }
            }
        }

        return "";
    }
}
