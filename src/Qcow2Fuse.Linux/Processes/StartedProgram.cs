// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// A program that this one has started, and this process's ends of its pipes. Whoever has it waits for its end; the
/// kernel keeps its process id for it until then.
/// </summary>
public sealed class StartedProgram : IDisposable
{
    private int _input;
    private int _output;
    private int _errors;
    private int? _exitCode;

    internal StartedProgram(int id, int input, int output, int errors)
    {
        Id = id;
        _input = input;
        _output = output;
        _errors = errors;
    }

    /// <summary>Its process id.</summary>
    public int Id { get; }

    /// <summary>The end of its standard error to read from; −1 where that is no pipe.</summary>
    public int Errors => _errors;

    /// <summary>Whether its end was waited for; its id may be another process's since.</summary>
    public bool HasBeenWaitedFor => _exitCode is not null;

    /// <summary>Starts a program.</summary>
    /// <param name="start">What is started.</param>
    /// <param name="program">The program; null where it could not be started.</param>
    /// <returns>0, or −errno: −ENOENT and −EACCES as execve(2) has them.</returns>
    public static int TryStart(ProgramStart start, out StartedProgram? program) => PosixSpawn.Run(start, out program);

    /// <summary>Writes to its standard input: 0, or −errno; −EPIPE where it reads no more.</summary>
    public int WriteInput(ReadOnlySpan<byte> bytes) => LinuxStream.Write(_input, bytes);

    /// <summary>Ends its standard input.</summary>
    public void EndInput() => CloseEnd(ref _input);

    /// <summary>What it writes to standard output, to the end, but <paramref name="bytesMax"/> bytes at most.</summary>
    public string ReadOutput(int bytesMax) => ReadAll(_output, bytesMax);

    /// <summary>What it writes to standard error, to the end, but <paramref name="bytesMax"/> bytes at most.</summary>
    public string ReadErrors(int bytesMax) => ReadAll(_errors, bytesMax);

    /// <summary>Waits for its end: its exit code, or 128 and the number of the signal that ended it.</summary>
    public int Wait()
    {
        _exitCode ??= ChildCalls.Wait(Id);
        return _exitCode.Value;
    }

    /// <summary>
    /// Waits until it has ended, but leaves its process id to it until <see cref="Wait"/>.
    /// </summary>
    /// <param name="patience">How long to wait; infinite with <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <returns>False where it has not ended by then.</returns>
    public bool WaitUntilOver(TimeSpan patience) => HasBeenWaitedFor || ChildCalls.WaitUntilOver(Id, patience);

    /// <summary>Closes the pipes. The program is not ended and not waited for.</summary>
    public void Dispose()
    {
        CloseEnd(ref _input);
        CloseEnd(ref _output);
        CloseEnd(ref _errors);
    }

    private static void CloseEnd(ref int end)
    {
        if (end >= 0)
            _ = LinuxFile.Close(end);
        end = -1;
    }

    private static string ReadAll(int end, int bytesMax)
    {
        byte[] buffer = new byte[bytesMax];
        int length = 0;
        int read;
        while (length < bytesMax && (read = LinuxStream.Read(end, buffer.AsSpan(length))) > 0)
            length += read;
        return Encoding.UTF8.GetString(buffer, 0, length);
    }
}
