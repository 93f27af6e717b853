// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse list</c>: what is mounted, from which image, by whom, and what stands on it.</summary>
internal static class ListCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<string> output = CommonOptions.Output();
        Option<bool> verbose = new("-v", "--verbose")
        { Description = "Ask the daemons too: the images of each mount, and what they did" };
        Command command = new("list", "Show the mounted images") { output, verbose };
        command.SetAction(parsed =>
        {
            IReadOnlyList<Stack> stacks = DaemonFinder.Complete(Stack.ReadAll());
            Func<Stack, MountReport?>? ask = parsed.GetValue(verbose) ? Ask : null;
            if (CommonOptions.IsJson(parsed, output))
                StandardOutput.WriteLines(StackReport.Json(stacks, ask) + "\n");
            else
                StandardOutput.WriteLines(StackReport.Text(stacks, ask));
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>What the daemon of a mount says; null where it does not answer.</summary>
    private static MountReport? Ask(Stack stack)
    {
        if (stack.ProcessId is not { } process || DaemonSocket.Find(process) is not { } socket)
            return null;
        using ControlClient client = new(socket);
        return client.TryGetMounts()?.Mounts.FirstOrDefault(mount => mount.Connection == stack.Mount.Minor);
    }
}
