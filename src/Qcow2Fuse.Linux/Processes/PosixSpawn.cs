// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// Starts a program by posix_spawn(3). The class library sets up threads, sockets and handlers of signals around each
/// process it starts, and passes on whatever descriptor happens to be open.
/// </summary>
internal static unsafe partial class PosixSpawn
{
    private const int CloseOnExec = 0x80000;
    private const uint MemoryFileCloseOnExec = 1;
    private const short SetSignalDefaults = 4;
    private const int BrokenPipeByte = 1;
    private const byte BrokenPipeBit = 1 << 4;
    private const int FileSizeByte = 3;
    private const byte FileSizeBit = 1 << 0;
    private const int StandardStreams = 3;
    private const int ChildSignal = 17;
    private const nint DefaultHandler = 0;
    private const nint IgnoringHandler = 1;

    /// <summary>More than any C library needs for its opaque structures (336 bytes and less).</summary>
    private const int StructureBytes = 1024;

    /// <summary>
    /// Starts a program. A caller that ignores SIGCHLD is overruled, since what the program ended with would be lost.
    /// </summary>
    /// <returns>0, or −errno.</returns>
    public static int Run(ProgramStart start, out StartedProgram? program)
    {
        program = null;
        KeepEndsOfChildren();
        Span<int> ours = [-1, -1, -1];
        Span<int> theirs = [-1, -1, -1];
        ReadOnlySpan<ProgramStream> streams = [start.Input, start.Output, start.Errors];
        int result = 0;
        for (int i = 0; i < StandardStreams && result == 0; i++)
            result = OpenStream(streams[i], isInput: i == 0, out ours[i], out theirs[i]);
        int process = 0;
        if (result == 0)
            result = Spawn(start, theirs, out process);
        Close(theirs);
        if (result == 0)
            program = new StartedProgram(process, ours[0], ours[1], ours[2]);
        else
            Close(ours);
        return result;
    }

    /// <summary>A handler of SIGCHLD that somebody has set, as the class library does, stays.</summary>
    private static void KeepEndsOfChildren()
    {
        nint* action = stackalloc nint[StructureBytes / sizeof(nint)];
        if (SigactionNative(ChildSignal, null, action) == 0 && *action == IgnoringHandler)
            _ = SignalNative(ChildSignal, DefaultHandler);
    }

    private static void Close(ReadOnlySpan<int> ends)
    {
        foreach (int end in ends)
        {
            if (end >= 0)
                _ = LinuxFile.Close(end);
        }
    }

    /// <summary>The two ends of what a stream leads to; −1 for both where it is inherited.</summary>
    private static int OpenStream(ProgramStream stream, bool isInput, out int ours, out int theirs)
    {
        ours = -1;
        theirs = -1;
        switch (stream)
        {
            case ProgramStream.Inherited:
                return 0;
            case ProgramStream.Nothing:
                theirs = OpenNothing();
                return theirs < 0 ? theirs : RefuseStandard(theirs);
            default:
                int* ends = stackalloc int[2];
                if (Pipe2Native(ends, CloseOnExec) != 0)
                    return -Marshal.GetLastPInvokeError();
                (ours, theirs) = isInput ? (ends[1], ends[0]) : (ends[0], ends[1]);
                return RefuseStandard(Math.Min(ours, theirs));
        }
    }

    /// <summary>/dev/null; where a system has none, an empty file in memory, which does as well for a while.</summary>
    private static int OpenNothing()
    {
        int nothing = LinuxFile.Open("/dev/null", OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (nothing >= 0)
            return nothing;
        fixed (byte* name = "nothing\0"u8)
            nothing = MemfdNative(name, MemoryFileCloseOnExec);
        return nothing >= 0 ? nothing : -Marshal.GetLastPInvokeError();
    }

    /// <summary>A process without standard streams would give them away for those of the program.</summary>
    private static int RefuseStandard(int descriptor) => descriptor < StandardStreams ? -Errno.EBADF : 0;

    private static int Spawn(ProgramStart start, ReadOnlySpan<int> streams, out int process)
    {
        process = 0;
        byte* actions = stackalloc byte[StructureBytes];
        byte* attributes = stackalloc byte[StructureBytes];
        int result = ActionsInitNative(actions);
        if (result != 0)
            return -result;
        result = AttributesInitNative(attributes);
        if (result == 0)
        {
            result = Prepare(start, streams, actions, attributes);
            if (result == 0)
                result = Execute(start, actions, attributes, out process);
            _ = AttributesDestroyNative(attributes);
        }

        _ = ActionsDestroyNative(actions);
        return -result;
    }

    /// <summary>What happens in the new process before the program runs: 0, or errno.</summary>
    private static int Prepare(ProgramStart start, ReadOnlySpan<int> streams, byte* actions, byte* attributes)
    {
        byte* signals = stackalloc byte[StructureBytes];
        new Span<byte>(signals, StructureBytes).Clear();

        // The runtime ignores SIGPIPE, and this program SIGXFSZ, which one that is started would go on doing.
        signals[BrokenPipeByte] = BrokenPipeBit;
        signals[FileSizeByte] = FileSizeBit;
        int result = AttributesSetFlagsNative(attributes, SetSignalDefaults);
        if (result == 0)
            result = AttributesSetDefaultNative(attributes, signals);
        if (result == 0 && start.WorkingDirectory is { } directory)
        {
            fixed (byte* path = Word(directory))
                result = ActionsAddDirectoryNative(actions, path);
        }

        for (int i = 0; i < StandardStreams && result == 0; i++)
        {
            if (streams[i] >= 0)
                result = ActionsAddDuplicateNative(actions, streams[i], i);
        }

        // In the new process alone: here they stay what they are for whatever is started later.
        foreach (int descriptor in start.InheritsAll ? [] : InheritedFiles.All())
        {
            if (result == 0 && !start.Descriptors.Contains(descriptor))
                result = ActionsAddCloseNative(actions, descriptor);
        }

        // To the number that it has already: only the flag close-on-exec goes.
        foreach (int descriptor in start.Descriptors)
        {
            if (result == 0 && descriptor >= StandardStreams)
                result = ActionsAddDuplicateNative(actions, descriptor, descriptor);
        }

        return result;
    }

    private static int Execute(ProgramStart start, byte* actions, byte* attributes, out int process)
    {
        List<byte[]> words = [Word(start.Path)];
        foreach (string argument in start.Arguments)
            words.Add(Word(argument));
        List<byte[]> variables = start.HasOwnEnvironment
            ? [.. start.Variables.Where(static variable => variable.Value is not null)
                .Select(static variable => ProcessEnvironment.Entry(variable.Name, variable.Value!))]
            : ProcessEnvironment.With(start.Variables);
        fixed (byte* path = words[0], first = Join(words), firstVariable = Join(variables))
        {
            byte** argv = Pointers(first, words);
            byte** envp = Pointers(firstVariable, variables);
            int started = 0;
            int result = start.SearchesPath
                ? SpawnInPathNative(&started, path, actions, attributes, argv, envp)
                : SpawnNative(&started, path, actions, attributes, argv, envp);
            NativeMemory.Free(argv);
            NativeMemory.Free(envp);
            process = started;
            return result;
        }
    }

    /// <summary>The address of each word in a block of them, and a null.</summary>
    private static byte** Pointers(byte* first, List<byte[]> words)
    {
        byte** pointers = (byte**)NativeMemory.Alloc((nuint)words.Count + 1, (nuint)sizeof(byte*));
        for (int i = 0; i < words.Count; i++)
        {
            pointers[i] = first;
            first += words[i].Length;
        }

        pointers[words.Count] = null;
        return pointers;
    }

    private static byte[] Word(string text) => ByteText.Encode(text + "\0");

    /// <summary>All words behind each other. A zero more, so that the block is never empty.</summary>
    private static byte[] Join(List<byte[]> words)
    {
        byte[] all = new byte[words.Sum(static word => word.Length) + 1];
        int done = 0;
        foreach (byte[] word in words)
        {
            word.CopyTo(all, done);
            done += word.Length;
        }

        return all;
    }

    [LibraryImport("libc", EntryPoint = "pipe2", SetLastError = true)]
    private static partial int Pipe2Native(int* ends, int flags);

    [LibraryImport("libc", EntryPoint = "memfd_create", SetLastError = true)]
    private static partial int MemfdNative(byte* name, uint flags);

    /// <summary>The handler is the first field of struct sigaction.</summary>
    [LibraryImport("libc", EntryPoint = "sigaction")]
    private static partial int SigactionNative(int signal, nint* action, nint* old);

    [LibraryImport("libc", EntryPoint = "signal")]
    private static partial nint SignalNative(int signal, nint handler);

    [LibraryImport("libc", EntryPoint = "posix_spawn")]
    private static partial int SpawnNative(
        int* process, byte* path, byte* actions, byte* attributes, byte** arguments, byte** variables);

    [LibraryImport("libc", EntryPoint = "posix_spawnp")]
    private static partial int SpawnInPathNative(
        int* process, byte* path, byte* actions, byte* attributes, byte** arguments, byte** variables);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_init")]
    private static partial int ActionsInitNative(byte* actions);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_destroy")]
    private static partial int ActionsDestroyNative(byte* actions);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_adddup2")]
    private static partial int ActionsAddDuplicateNative(byte* actions, int fd, int target);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_addclose")]
    private static partial int ActionsAddCloseNative(byte* actions, int fd);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_addchdir_np")]
    private static partial int ActionsAddDirectoryNative(byte* actions, byte* path);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_init")]
    private static partial int AttributesInitNative(byte* attributes);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_destroy")]
    private static partial int AttributesDestroyNative(byte* attributes);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setflags")]
    private static partial int AttributesSetFlagsNative(byte* attributes, short flags);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setsigdefault")]
    private static partial int AttributesSetDefaultNative(byte* attributes, byte* signals);
}
