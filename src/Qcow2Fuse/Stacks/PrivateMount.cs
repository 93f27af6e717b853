// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Security.Cryptography;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Start;

namespace Qcow2Fuse.Stacks;

/// <summary>
/// An image mounted by a command for a purpose of its own, on a directory made for it that nobody else may enter.
/// </summary>
internal sealed class PrivateMount : IDisposable
{
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;
    private const int IdLength = 16;
    private const uint OwnerWrites = 0x80;
    private const long NameBytesMax = 1 << 20;
    private const string RawExtension = ".raw";

    private static readonly TimeSpan BusyPatience = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(20);

    private readonly string _image;
    private readonly StartedProgram _daemon;
    private readonly MountEntry? _mount;

    private PrivateMount(string directory, string image, StartedProgram daemon)
    {
        Directory = directory;
        RawFile = Path.Combine(directory, RawFileName.For(image));
        _image = image;
        _daemon = daemon;
        _mount = DaemonTable.MountOf(daemon.Id, directory);
    }

    /// <summary>The mount point.</summary>
    public string Directory { get; }

    /// <summary>The raw file of the whole disk.</summary>
    public string RawFile { get; }

    /// <summary>Whether nothing can be written to it.</summary>
    public bool IsReadOnly =>
        !LinuxPath.TryStatus(RawFile, out FileStatus status) || (status.Permissions & OwnerWrites) == 0;

    /// <summary>The partitions the disk has now: their numbers, and the raw files that show them.</summary>
    public IEnumerable<(string Number, string File)> Partitions()
    {
        string start = Path.GetFileName(RawFile)[..^RawExtension.Length] + ".p";
        List<string> files = [];
        int descriptor = LinuxFile.Open(Directory, OpenFlags.ReadOnly | OpenFlags.Directory | OpenFlags.CloseOnExec);
        if (descriptor >= 0)
        {
            _ = LinuxDirectory.FileNames(descriptor, files, NameBytesMax);
            _ = LinuxFile.Close(descriptor);
        }

        foreach (string file in files)
        {
            bool isPart = file.StartsWith(start, StringComparison.Ordinal)
                && file.EndsWith(RawExtension, StringComparison.Ordinal)
                && file.Length > start.Length + RawExtension.Length;
            if (!isPart)
                continue;
            string number = file[start.Length..^RawExtension.Length];
            if (number.All(char.IsAsciiDigit))
                yield return (number, Path.Combine(Directory, file));
        }
    }

    /// <summary>Mounts an image; when this returns, its raw file answers.</summary>
    /// <param name="kind">Name of the command, and of the directory below which the mount point is made.</param>
    /// <param name="image">The image's path, as typed.</param>
    /// <param name="options">Mount options as words of <c>-o</c>.</param>
    /// <param name="tied">The mount ends with this process, however that ends.</param>
    /// <param name="exitCode">What the daemon ended with.</param>
    /// <returns>Null if it could not be mounted; the daemon has said why.</returns>
    public static PrivateMount? Start(
        string kind, string image, IEnumerable<string> options, bool tied, out int exitCode)
    {
        if (LinuxPath.IsDirectory(image))
            throw new CommandException(ExitCode.Failure, $"{image}: is a directory, and one image is needed");

        // The daemon says nothing of it.
        _ = LoopSource.Resolve(image, warns: true);
        string directory = MakeDirectory(kind);
        List<string> arguments = ["mount"];
        foreach (string words in options)
            arguments.AddRange(["-o", words]);
        arguments.AddRange(["--", image, directory]);
        StartedProgram? daemon = BackgroundStart.StartPrivate(arguments, tied, out exitCode);
        if (daemon is not null)
            return new PrivateMount(directory, LinuxPath.Full(image), daemon);
        RemoveDirectory(directory);
        return null;
    }

    /// <summary>Removes a mount point that was made for one mount, where nothing is mounted any more.</summary>
    public static void RemoveDirectory(string directory)
    {
        try
        {
            System.IO.Directory.Delete(directory);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // Command and daemon both try, so that it goes also where one of them was killed.
        }
    }

    /// <summary>
    /// Unmounts, and waits until the daemon has written everything. Whoever still uses the mount keeps it alive, out
    /// of sight, which is said on standard error.
    /// </summary>
    /// <param name="failure">Exit code of the command where something may be lost.</param>
    /// <exception cref="CommandException">Something that was written may be lost.</exception>
    public void End(int failure)
    {
        using DaemonEnd? end = DaemonEnd.Watch(_daemon.Id);
        bool isFree = TryUnmount();
        if (!isFree)
            FuseMount.Unmount(_mount!, lazy: true);
        RemoveDirectory(Directory);
        if (!isFree)
        {
            Report.Warning($"{RawFile} is still open; the image is in use until it is closed");
            return;
        }

        end?.Wait(_image, failure);
        if (_daemon.Wait() != ExitCode.Success)
            throw DaemonEnd.Died(_image, _daemon.Id, failure);
    }

    /// <inheritdoc/>
    public void Dispose() => _daemon.Dispose();

    /// <summary>False where somebody holds on to the mount. What ends beside its parent needs a moment.</summary>
    private bool TryUnmount()
    {
        // A daemon that exits when it is idle may have ended before anybody looked.
        if (_mount is null || MountTable.Find(_mount) is null)
            return true;
        for (Stopwatch waited = Stopwatch.StartNew(); ; Thread.Sleep(Period))
        {
            try
            {
                FuseMount.Unmount(_mount, lazy: false);
                return true;
            }
            catch (FuseMountException) when (MountTable.Find(_mount) is null)
            {
                // A daemon that exits when it is idle was faster.
                return true;
            }
            catch (FuseMountException exception) when (exception.Error == FuseMountError.Busy)
            {
                if (waited.Elapsed > BusyPatience)
                    return false;
            }
        }
    }

    /// <summary>
    /// /run/qcow2fuse/KIND/ID for root, $XDG_RUNTIME_DIR/qcow2fuse/KIND/ID for others, or a directory for temporary
    /// files where there is none.
    /// </summary>
    private static string MakeDirectory(string kind)
    {
        string? runtime = MountCalls.EffectiveUser() == 0
            ? MountDirectory.System
            : MountDirectory.OfUser is { } own ? Path.Combine(own, "qcow2fuse") : null;
        try
        {
            if (runtime is null)
                return System.IO.Directory.CreateTempSubdirectory("qcow2fuse-").FullName;
            if (string.Equals(runtime, MountDirectory.System, StringComparison.Ordinal))
                MountDirectory.Make(runtime);
            else
                System.IO.Directory.CreateDirectory(runtime, OwnerOnly);
            System.IO.Directory.CreateDirectory(Path.Combine(runtime, kind), OwnerOnly);
            string id = RandomNumberGenerator.GetHexString(IdLength, lowercase: true);
            string directory = Path.Combine(runtime, kind, id);
            System.IO.Directory.CreateDirectory(directory, OwnerOnly);
            return directory;
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw new CommandException(
                ExitCode.System, $"a mount point cannot be made: {exception.Message}", inner: exception);
        }
    }
}
