// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Loop;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;
using Qcow2Fuse.Settings;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Commands;

/// <summary>
/// <c>qcow2fuse mount --fs</c>: mounts the file system inside an image. The image is mounted on a directory of its own,
/// a loop device is put on the raw file, and mount(8) does the rest. An unmount of the file system frees the device,
/// and with it the daemon loses its last user and ends.
/// </summary>
internal static class FileSystemMount
{
    /// <summary>The kind of mount points made for file systems; see <see cref="PrivateMount.Start"/>.</summary>
    private const string Kind = "fs";

    /// <summary>Mounts the file system of an image.</summary>
    /// <param name="settings">What to mount, with source and directory.</param>
    /// <param name="options">The mount options of the command line, as words of <c>-o</c>.</param>
    /// <returns>The exit code, that of mount(8) where it failed.</returns>
    public static int Run(MountSettings settings, IReadOnlyList<string> options)
    {
        AttachCommand.RequireRoot();
        string source = SplitPartition(settings.Source!, out string? partition);
        string[] own = partition is null ? ["idle_exit"] : ["idle_exit", "partition=" + partition];
        using PrivateMount? mount =
            PrivateMount.Start(Kind, source, ["prefer_direct", .. options, .. own], tied: false, out int exitCode);
        if (mount is null)
            return exitCode;
        int device = AttachCommand.AttachTo(
            mount, source, settings.SectorSize, autoClear: true, out int number);
        try
        {
            exitCode = Mount(settings, LoopDevice.PathOf(number), mount.IsReadOnly);
        }
        finally
        {
            // From here on the file system alone holds the device.
            _ = LinuxFile.Close(device);
        }

        if (exitCode != ExitCode.Success)
            mount.End(ExitCode.System);
        else if (LinuxStream.IsTerminal(StandardOutput.Descriptor))
            StandardOutput.WriteLine($"mounted {source} on {settings.Directory}  [{LoopDevice.PathOf(number)}]");
        return exitCode;
    }

    /// <summary>"web.qcow2" and "1" for <c>web.qcow2:1</c>, unless a file is called so.</summary>
    private static string SplitPartition(string source, out string? partition)
    {
        int colon = source.LastIndexOf(':');
        bool isPartition = colon > 0 && colon < source.Length - 1 && !LinuxPath.IsFile(source)
            && source.AsSpan(colon + 1).IndexOfAnyExceptInRange('0', '9') < 0;
        partition = isPartition ? source[(colon + 1)..] : null;
        return isPartition ? source[..colon] : source;
    }

    /// <summary>
    /// mount(8) recognises the file system, and says what is wrong on the standard error of this process.
    /// </summary>
    private static int Mount(MountSettings settings, string device, bool isReadOnly)
    {
        string flags = string.Join(
            ',',
            (string[])
            [
                isReadOnly ? "ro" : "rw", .. settings.KernelFlags,
                .. settings.SecurityOptions.Select(static one => $"{one.Name}=\"{one.Label}\""),
                .. settings.FileSystemOptions,
            ]);
        string program = SystemPrograms.Find("mount")
            ?? throw new CommandException(ExitCode.System, "mount(8) is not installed");
        ProgramStart start = new()
        {
            Path = program,
            Arguments = ["-o", flags, "--", device, settings.Directory!],
            Output = ProgramStream.Inherited,
            Errors = ProgramStream.Inherited,
        };
        int result = StartedProgram.TryStart(start, out StartedProgram? started);
        using StartedProgram mount = started
            ?? throw new CommandException(ExitCode.System, $"{program}: {Errno.Text(-result)}");
        return mount.Wait();
    }
}
