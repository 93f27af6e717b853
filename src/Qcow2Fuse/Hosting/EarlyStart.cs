// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Commands;
using Qcow2Fuse.Linux;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Hosting;

/// <summary>
/// The usual mount: the process that the user started runs the program again at once, without a look at options and
/// settings, which is half of the time of a start. The daemon looks at them, and its starter passes on what it says.
/// </summary>
/// <remarks>
/// A daemon that finds it cannot do without its starter (<c>setuid=</c>, a secret on standard input, <c>nofail</c>)
/// ends with success and without a word, and the starter then does what it always did (<see cref="BackgroundStart"/>).
/// </remarks>
internal static class EarlyStart
{
    private const int Fields = 3;
    private const byte LineEnd = (byte)'\n';

    /// <summary>Whether a command line asks for a mount in the background, by all that can be seen from outside.
    /// </summary>
    /// <param name="arguments">The arguments, a verb first.</param>
    public static bool IsMeant(IReadOnlyList<string> arguments)
    {
        if (BackgroundStart.IsChild || arguments.Count < 2 || arguments[0] is not MountCommand.Verb)
            return false;
        for (int i = 1; i < arguments.Count; i++)
        {
            string argument = arguments[i];
            if (argument is "-o")
            {
                i++;
                continue;
            }

            // Forms of help and of one letter could be printed, or stay in the foreground.
            bool isOther = argument.StartsWith("--", StringComparison.Ordinal)
                ? IsOtherForm(argument)
                : argument is "/h" or "/?" || (argument.StartsWith('-') && argument is not "-r");
            if (isOther)
                return false;
        }

        return true;
    }

    /// <summary>Starts the daemon and waits until it is ready or gives up.</summary>
    /// <param name="arguments">The arguments, a verb first.</param>
    /// <param name="exitCode">The exit code of the start.</param>
    /// <returns>False where it cannot be started so, or needs more of its starter.</returns>
    /// <exception cref="CommandException">The mount does not answer.</exception>
    public static bool TryRun(IReadOnlyList<string> arguments, out int exitCode)
    {
        exitCode = ExitCode.Success;
        string program = Environment.ProcessPath ?? "/proc/self/exe";
        int daemon;
        int errors;
        using (InheritedFlusher.Begin())
            daemon = ProcessStart.Run(program, arguments, BackgroundStart.EarlyVariables, out errors);
        if (daemon < 0)
            return false;
        if (WaitForReady(errors) is { } word)
        {
            MountCommand.Confirm(word[1], word[2], word[0], daemon);
            return true;
        }

        _ = LinuxFile.Close(errors);
        int ended = ProcessStart.Wait(daemon);
        exitCode = BackgroundStart.ExitCodeOf(ended);
        return ended != ExitCode.Success;
    }

    /// <summary>
    /// What an early daemon says when its mount answers. Names may have ends of lines in them, but no zeroes.
    /// </summary>
    public static string ReadyWord(string status, string source, string directory) =>
        $"{status}\0{source}\0{directory}\0";

    private static bool IsOtherForm(string argument)
    {
        foreach (string form in (string[])["--foreground", "--debug", "--fs", "--help", "--version"])
        {
            if (argument.StartsWith(form, StringComparison.Ordinal))
                return true;
        }

        return false;
    }

    /// <summary>Passes on, line by line, what the daemon says; the fields of its word that it is ready, or null.
    /// </summary>
    private static string[]? WaitForReady(int errors)
    {
        byte[] buffer = new byte[4096];
        int length = 0;
        while (true)
        {
            if (length == buffer.Length)
                Array.Resize(ref buffer, buffer.Length * 2);
            int read = LinuxStream.Read(errors, buffer.AsSpan(length));
            if (read <= 0)
                break;
            length += read;
            int done = 0;
            while (TryTake(buffer.AsSpan(done, length - done), out int taken, out string[]? word))
            {
                if (word is not null)
                    return word;
                _ = LinuxStream.Write(StandardError.Descriptor, buffer.AsSpan(done, taken));
                done += taken;
            }

            buffer.AsSpan(done, length - done).CopyTo(buffer);
            length -= done;
        }

        // The last words of a process that died may lack the end of the line.
        if (length > 0)
            StandardError.WriteLine(Encoding.UTF8.GetString(buffer, 0, length));
        return null;
    }

    /// <summary>Takes a whole line, or the word with all its fields, from the beginning of what was read.</summary>
    private static bool TryTake(ReadOnlySpan<byte> read, out int taken, out string[]? word)
    {
        word = null;
        taken = 0;
        if (read.IsEmpty || read[0] != BackgroundStart.ReadyMark)
        {
            taken = read.IndexOf(LineEnd) + 1;
            return taken > 0;
        }

        string[] fields = new string[Fields];
        ReadOnlySpan<byte> rest = read[1..];
        for (int i = 0; i < Fields; i++)
        {
            int end = rest.IndexOf((byte)0);
            if (end < 0)
                return false;
            fields[i] = Encoding.UTF8.GetString(rest[..end]);
            rest = rest[(end + 1)..];
        }

        word = fields;
        taken = read.Length - rest.Length;
        return true;
    }
}
