// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;
using Qcow2Fuse.Linux.Processes;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Start;

/// <summary>
/// <c>-o setuid=USER</c>, as mount.fuse3(8) has it: root has everything done by another user, who opens the image and
/// mounts through fusermount3(1).
/// </summary>
internal static class OtherUser
{
    private const int UserField = 2;
    private const int GroupField = 3;
    private const int HomeField = 5;
    private const int PasswordFields = 7;

    /// <summary>More than 65,536 groups, each with ten digits, take.</summary>
    private const int AnswerBytesMax = 1 << 20;

    /// <summary>Becomes the user, with his groups, his home and no runtime directory of root's.</summary>
    /// <param name="name">His name, or the number of his id.</param>
    /// <returns>False where this process is his already, as that of the daemon.</returns>
    /// <exception cref="CommandException">There is no such user, or the caller is not root.</exception>
    public static bool Become(string name)
    {
        string[] entry = Ask("getent", ["passwd", "--", name]).Split(':');
        if (entry.Length != PasswordFields
            || !TryParse(entry[UserField], out uint user) || !TryParse(entry[GroupField], out uint group))
        {
            throw CommandException.Usage($"option setuid={Printable.Text(name)}: there is no such user");
        }

        if (MountCalls.EffectiveUser() == user)
            return false;
        if (MountCalls.EffectiveUser() != 0)
            throw CommandException.Usage($"option setuid={Printable.Text(name)}: only root can become another user");
        uint[] groups =
        [
            .. Ask("id", ["-G", "--", entry[0]]).Split(' ')
                .Select(static text => TryParse(text, out uint id) ? id : (uint?)null).OfType<uint>(),
        ];
        ProcessEnvironment.Set("HOME", entry[HomeField]);
        foreach (string variable in (string[])["XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"])
            ProcessEnvironment.Set(variable, value: null);
        int result = ProcessCalls.BecomeUser(user, group, groups);
        return result == 0 ? true : throw new CommandException(
            ExitCode.System, $"option setuid={Printable.Text(name)}: {Errno.Text(-result)}");
    }

    /// <summary>The first line that a program prints; empty where it fails.</summary>
    private static string Ask(string program, string[] arguments)
    {
        string path = SystemPrograms.Find(program)
            ?? throw new CommandException(ExitCode.System, $"{program}(1) is not installed");
        ProgramStart start = new() { Path = path, Arguments = arguments, Output = ProgramStream.Pipe };
        int result = StartedProgram.TryStart(start, out StartedProgram? started);
        using StartedProgram process = started
            ?? throw new CommandException(ExitCode.System, $"{path}: {Errno.Text(-result)}");
        string answer = process.ReadOutput(AnswerBytesMax);
        return process.Wait() == 0 ? answer.TrimEnd('\n') : "";
    }

    private static bool TryParse(string text, out uint id) =>
        uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out id);
}
