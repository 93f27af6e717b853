// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>
/// Mounting and unmounting by way of fusermount3(1), the set-uid helper of users who may not mount. It is called
/// by its absolute path and with an environment of its own (CVE-2015-3202).
/// </summary>
internal static class Fusermount
{
    private const string Program = "fusermount3";

    /// <summary>More than it ever says.</summary>
    private const int MessageBytesMax = 65536;

    /// <summary>The helper's path; null where it is not installed.</summary>
    public static string? Find() => SystemPrograms.Find(Program);

    /// <summary>
    /// Mounts and returns the session's descriptor. <paramref name="keepAlive"/> is −1, or with auto_unmount the
    /// descriptor whose closing, as by our death, makes the helper unmount.
    /// </summary>
    public static int Mount(MountSpec spec, string path, out int keepAlive)
    {
        keepAlive = -1;
        int result = DescriptorSocket.CreatePair(out int ours, out int theirs);
        if (result < 0)
            throw FuseMountErrors.MountCall(path, -result);

        int device;
        try
        {
            using StartedProgram process = Start(path, ["-o", Options(spec), "--", path], theirs);
            FuseDevice.Close(theirs);
            theirs = -1;
            device = DescriptorSocket.Receive(ours);
            if (device < 0)
            {
                string message = process.ReadErrors(MessageBytesMax);
                _ = process.Wait();
                throw Failure(path, message);
            }

            if (spec.AutoUnmount)
            {
                keepAlive = ours;
                ours = -1;
            }
            else
            {
                _ = process.Wait();
            }
        }
        finally
        {
            if (theirs >= 0)
                FuseDevice.Close(theirs);
            if (ours >= 0)
                FuseDevice.Close(ours);
        }

        return device;
    }

    /// <summary>Unmounts a mount of this user.</summary>
    public static void Unmount(string path, bool lazy)
    {
        using StartedProgram process = Start(path, [lazy ? "-uz" : "-u", "--", path], socket: -1);
        string message = process.ReadErrors(MessageBytesMax);
        if (process.Wait() == 0)
            return;

        if (message.Contains("busy", StringComparison.OrdinalIgnoreCase))
            throw FuseMountErrors.Busy(path);

        // It is mounted, but fusermount3 looks for mounts of the user who calls it only.
        throw message.Contains("not found in", StringComparison.Ordinal)
            ? new FuseMountException(FuseMountError.OtherUser, $"{path}: is another user's mount")
            : Failure(path, message);
    }

    /// <summary>The helper's "-o": commas and backslashes inside values are escaped by a backslash.</summary>
    internal static string Options(MountSpec spec)
    {
        List<string> words = [.. MountOptionWords.Words(spec.Flags)];
        words.Add("fsname=" + Escape(spec.Source));
        words.Add("subtype=" + Escape(spec.Subtype));
        if (spec.AllowOther)
            words.Add("allow_other");
        if (spec.AllowOther || spec.DefaultPermissions)
            words.Add("default_permissions");
        if (spec.MaxRead > 0)
            words.Add(string.Create(CultureInfo.InvariantCulture, $"max_read={spec.MaxRead}"));
        if (spec.AutoUnmount)
            words.Add("auto_unmount");
        words.AddRange(spec.EffectiveSecurityOptions.Select(static one => $"{one.Name}={Escape(one.Label)}"));
        return string.Join(',', words);
    }

    /// <summary>Turns the helper's complaint into ours.</summary>
    internal static FuseMountException Failure(string path, string message)
    {
        string reason = string.Join(
            "; ",
            message.Split('\n').Select(static line => WithoutName(line.Trim())).Where(static line => line.Length > 0));
        if (reason.Length == 0)
            reason = "fusermount3 failed without a message";
        if (reason.Contains("user_allow_other", StringComparison.Ordinal))
        {
            return new FuseMountException(
                FuseMountError.AllowOtherRefused,
                $"{path}: allow_other is not allowed to users by /etc/fuse.conf");
        }

        if (reason.Contains("/dev/fuse", StringComparison.Ordinal)
            || reason.Contains("device not found", StringComparison.Ordinal))
            return new FuseMountException(FuseMountError.NoDevice, reason);
        if (reason.Contains("mountpoint", StringComparison.Ordinal))
            return new FuseMountException(FuseMountError.MountPointUnusable, $"{path}: {reason}");
        return reason.Contains("not permitted", StringComparison.OrdinalIgnoreCase)
            ? new FuseMountException(FuseMountError.NotPermitted, $"{path}: {reason}")
            : new FuseMountException(FuseMountError.System, $"{path}: {reason}");
    }

    /// <summary>It calls itself, in front of each line, by the path that it was started by.</summary>
    private static string WithoutName(string line)
    {
        int name = line.IndexOf(Program + ": ", StringComparison.Ordinal);
        return name >= 0 && !line.AsSpan(0, name).Contains(' ') ? line[(name + Program.Length + 2)..] : line;
    }

    private static string Escape(string value) =>
        value.Replace("\\", "\\\\", StringComparison.Ordinal).Replace(",", "\\,", StringComparison.Ordinal);

    /// <summary>Starts the helper; with a socket for the descriptor of the session, or −1.</summary>
    private static StartedProgram Start(string path, string[] arguments, int socket)
    {
        string helper = Find() ?? throw FuseMountErrors.NoHelper();
        List<(string, string?)> variables = [("PATH", SystemPrograms.SearchPath), ("LC_ALL", "C")];
        if (socket >= 0)
            variables.Add(("_FUSE_COMMFD", socket.ToString(CultureInfo.InvariantCulture)));
        ProgramStart start = new()
        {
            Path = helper,
            Arguments = arguments,
            Variables = variables,
            HasOwnEnvironment = true,
            Output = ProgramStream.Inherited,
            Errors = ProgramStream.Pipe,
            Descriptors = socket >= 0 ? [socket] : [],
            WorkingDirectory = "/",
        };
        int result = StartedProgram.TryStart(start, out StartedProgram? program);
        return program
            ?? throw new FuseMountException(FuseMountError.System, $"{path}: {helper}: {Errno.Text(-result)}");
    }
}
