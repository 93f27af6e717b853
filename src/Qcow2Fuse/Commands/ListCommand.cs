// SPDX-License-Identifier: MIT
using System.CommandLine;
using Qcow2Fuse.Output;
using Qcow2Fuse.Stacks;

namespace Qcow2Fuse.Commands;

/// <summary><c>qcow2fuse list</c>: what is mounted, from which image, by whom, and what stands on it.</summary>
internal static class ListCommand
{
    /// <summary>The verb with its options.</summary>
    public static Command Create()
    {
        Option<string> output = new("--output")
        {
            Description = "human or json",
            HelpName = "FORM",
            DefaultValueFactory = static _ => "human",
        };
        output.AcceptOnlyFromAmong("human", "json");
        Command command = new("list", "Show the mounted images") { output };
        command.SetAction(parsed =>
        {
            IReadOnlyList<Stack> stacks = Stack.ReadAll();
            if (parsed.GetValue(output) is "json")
                Console.Out.WriteLine(StackReport.Json(stacks));
            else
                Console.Out.Write(StackReport.Text(stacks));
            return ExitCode.Success;
        });
        return command;
    }
}
