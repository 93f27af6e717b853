// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Start;

/// <summary>
/// What a daemon says on its standard error when its mount answers: a mark, a text and a zero, at the beginning of a
/// line. Names in the text may have ends of lines in them, but no zeroes.
/// </summary>
internal static class ReadyWord
{
    private const byte Mark = 6;
    private const byte LineEnd = (byte)'\n';

    /// <summary>A daemon that says more in one line, or as its word, is cut off there.</summary>
    private const int BytesMax = 1 << 20;

    /// <summary>In the daemon: false where nobody listens any more.</summary>
    /// <param name="status">What the mount shows.</param>
    public static bool TrySay(string status) =>
        LinuxStream.Write(StandardError.Descriptor, [Mark, .. ByteText.Encode(status), 0]) == 0;

    /// <summary>
    /// Passes on, line by line, what a daemon says, until its word: what that says, or null where the daemon ended.
    /// </summary>
    /// <param name="errors">The end of the pipe to read from.</param>
    public static string? WaitFor(int errors)
    {
        byte[] buffer = new byte[4096];
        int length = 0;
        while (length < BytesMax)
        {
            if (length == buffer.Length)
                Array.Resize(ref buffer, buffer.Length * 2);
            int read = LinuxStream.Read(errors, buffer.AsSpan(length));
            if (read <= 0)
                break;
            length += read;
            int done = 0;
            while (done < length)
            {
                bool isWord = buffer[done] == Mark;
                int end = buffer.AsSpan(done, length - done).IndexOf(isWord ? (byte)0 : LineEnd);
                if (end < 0)
                    break;
                if (isWord)
                    return ByteText.Decode(buffer.AsSpan(done + 1, end - 1));
                _ = LinuxStream.Write(StandardError.Descriptor, buffer.AsSpan(done, end + 1));
                done += end + 1;
            }

            buffer.AsSpan(done, length - done).CopyTo(buffer);
            length -= done;
        }

        // The last words of a process that died may lack the end of the line.
        if (length > 0)
            StandardError.WriteLine(ByteText.Decode(buffer.AsSpan(0, length)));
        return null;
    }
}
