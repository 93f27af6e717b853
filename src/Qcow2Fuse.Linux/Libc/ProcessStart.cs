// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using System.Text;

namespace Qcow2Fuse.Linux;

/// <summary>
/// Starts a program with three calls of the C library. The class library sets up threads, sockets and handlers of
/// signals around each process it starts, which takes longer than the start itself.
/// </summary>
public static unsafe partial class ProcessStart
{
    private const string EnvironmentPath = "/proc/self/environ";
    private const int CloseOnExec = 0x80000;
    private const int ResetSignals = 4;
    private const int BrokenPipeByte = 1;
    private const byte BrokenPipeBit = 1 << 4;
    private const int StandardStreams = 3;
    private const int ChildSignal = 17;
    private const nint DefaultHandler = 0;

    /// <summary>More than any C library needs for its opaque structures (336 bytes and less).</summary>
    private const int StructureBytes = 1024;

    /// <summary>
    /// Calls posix_spawn(3): a program with this process's environment, nothing on standard input, standard output that
    /// leads nowhere, and a pipe for standard error. To be called before the class library has started any process: a
    /// caller that ignores SIGCHLD is overruled, since what the program ended with would be lost.
    /// </summary>
    /// <param name="program">Its path.</param>
    /// <param name="arguments">Its arguments without the first, which is the path.</param>
    /// <param name="variables">Variables that it has besides, as NAME and value.</param>
    /// <param name="errors">The end of the pipe to read from.</param>
    /// <returns>Its process id, or −errno. −EBADF where this process has no standard streams.</returns>
    public static int Run(
        string program, IReadOnlyList<string> arguments, (string Name, string Value)[] variables,
        out int errors)
    {
        errors = -1;
        byte[]? inherited = ReadEnvironment();
        if (inherited is null)
            return -Errno.ENOENT;
        int* pipe = stackalloc int[2];
        if (Pipe2Native(pipe, CloseOnExec) != 0)
            return -Marshal.GetLastPInvokeError();
        int result = -Errno.EBADF;
        if (pipe[0] >= StandardStreams && pipe[1] >= StandardStreams)
        {
            List<byte[]> words = [Word(program)];
            foreach (string argument in arguments)
                words.Add(Word(argument));
            _ = SignalNative(ChildSignal, DefaultHandler);
            result = Spawn(words[0], Join(words), Join(Variables(inherited, variables)), pipe[1]);
        }

        _ = LinuxFile.Close(pipe[1]);
        if (result >= 0)
            errors = pipe[0];
        else
            _ = LinuxFile.Close(pipe[0]);
        return result;
    }

    /// <summary>
    /// waitpid(2): what a process ended with, 128 and the number of the signal where one ended it, or −errno.
    /// </summary>
    public static int Wait(int process)
    {
        while (true)
        {
            int status = 0;
            int result = WaitpidNative(process, &status, 0);
            int errno = Marshal.GetLastPInvokeError();
            if (result >= 0)
                return (status & 0x7F) == 0 ? status >> 8 & 0xFF : 128 + (status & 0x7F);
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    private static int Spawn(byte[] program, byte[] arguments, byte[] variables, int errors)
    {
        byte* actions = stackalloc byte[StructureBytes];
        byte* attributes = stackalloc byte[StructureBytes];
        byte* signals = stackalloc byte[StructureBytes];
        new Span<byte>(signals, StructureBytes).Clear();

        // The runtime ignores SIGPIPE, which a program that is started would go on doing.
        signals[BrokenPipeByte] = BrokenPipeBit;
        int result = ActionsInitNative(actions);
        if (result != 0)
            return -result;
        result = AttributesInitNative(attributes);
        if (result != 0)
        {
            _ = ActionsDestroyNative(actions);
            return -result;
        }

        fixed (byte* path = program, nowhere = "/dev/null\0"u8, first = arguments, firstVariable = variables)
        {
            byte** argv = Pointers(first, arguments.Length);
            byte** envp = Pointers(firstVariable, variables.Length);
            int process = 0;
            result = AttributesSetFlagsNative(attributes, ResetSignals);
            if (result == 0)
                result = AttributesSetDefaultNative(attributes, signals);
            if (result == 0)
                result = ActionsAddOpenNative(actions, 0, nowhere, OpenFlags.ReadOnly, 0);
            if (result == 0)
                result = ActionsAddOpenNative(actions, 1, nowhere, OpenFlags.ReadWrite, 0);
            if (result == 0)
                result = ActionsAddDuplicateNative(actions, errors, 2);
            if (result == 0)
                result = SpawnNative(&process, path, actions, attributes, argv, envp);
            NativeMemory.Free(argv);
            NativeMemory.Free(envp);
            _ = AttributesDestroyNative(attributes);
            _ = ActionsDestroyNative(actions);
            return result == 0 ? process : -result;
        }
    }

    /// <summary>The address of each word of a block of words that end with a zero, and a null.</summary>
    private static byte** Pointers(byte* first, int length)
    {
        int count = new ReadOnlySpan<byte>(first, length).Count((byte)0);
        byte** pointers = (byte**)NativeMemory.Alloc((nuint)count + 1, (nuint)sizeof(byte*));
        int index = 0;
        for (int start = 0; start < length; index++)
        {
            pointers[index] = first + start;
            start += new ReadOnlySpan<byte>(first + start, length - start).IndexOf((byte)0) + 1;
        }

        pointers[index] = null;
        return pointers;
    }

    private static byte[] Word(string text) => Encoding.UTF8.GetBytes(text + "\0");

    private static byte[] Join(List<byte[]> words)
    {
        int length = 0;
        foreach (byte[] word in words)
            length += word.Length;
        byte[] all = new byte[length];
        int done = 0;
        foreach (byte[] word in words)
        {
            word.CopyTo(all, done);
            done += word.Length;
        }

        return all;
    }

    /// <summary>What was inherited without those that get another value, and then these.</summary>
    private static List<byte[]> Variables(
        ReadOnlySpan<byte> inherited, (string Name, string Value)[] variables)
    {
        List<byte[]> all = [];
        List<byte[]> starts = [];
        foreach ((string name, string value) in variables)
        {
            all.Add(Word($"{name}={value}"));
            starts.Add(Encoding.UTF8.GetBytes(name + "="));
        }

        while (!inherited.IsEmpty)
        {
            int end = inherited.IndexOf((byte)0);
            if (end < 0)
                break;
            ReadOnlySpan<byte> entry = inherited[..(end + 1)];
            inherited = inherited[(end + 1)..];
            bool isReplaced = false;
            foreach (byte[] start in starts)
                isReplaced |= entry.StartsWith(start);
            if (!isReplaced)
                all.Add(entry.ToArray());
        }

        return all;
    }

    /// <summary>The environment this process was started with, byte for byte; null where it cannot be read.</summary>
    private static byte[]? ReadEnvironment()
    {
        int fd = LinuxFile.Open(EnvironmentPath, OpenFlags.ReadOnly | OpenFlags.CloseOnExec);
        if (fd < 0)
            return null;
        byte[] buffer = new byte[16384];
        int length = 0;
        int read;
        while ((read = LinuxStream.Read(fd, buffer.AsSpan(length))) > 0)
        {
            length += read;
            if (length == buffer.Length)
                Array.Resize(ref buffer, buffer.Length * 2);
        }

        _ = LinuxFile.Close(fd);
        return read < 0 ? null : buffer[..length];
    }

    [LibraryImport("libc", EntryPoint = "pipe2", SetLastError = true)]
    private static partial int Pipe2Native(int* ends, int flags);

    [LibraryImport("libc", EntryPoint = "signal")]
    private static partial nint SignalNative(int signal, nint handler);

    [LibraryImport("libc", EntryPoint = "waitpid", SetLastError = true)]
    private static partial int WaitpidNative(int process, int* status, int options);

    [LibraryImport("libc", EntryPoint = "posix_spawn")]
    private static partial int SpawnNative(
        int* process, byte* path, byte* actions, byte* attributes, byte** arguments, byte** variables);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_init")]
    private static partial int ActionsInitNative(byte* actions);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_destroy")]
    private static partial int ActionsDestroyNative(byte* actions);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_addopen")]
    private static partial int ActionsAddOpenNative(byte* actions, int fd, byte* path, int flags, uint mode);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_adddup2")]
    private static partial int ActionsAddDuplicateNative(byte* actions, int fd, int target);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_init")]
    private static partial int AttributesInitNative(byte* attributes);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_destroy")]
    private static partial int AttributesDestroyNative(byte* attributes);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setflags")]
    private static partial int AttributesSetFlagsNative(byte* attributes, short flags);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setsigdefault")]
    private static partial int AttributesSetDefaultNative(byte* attributes, byte* signals);
}
