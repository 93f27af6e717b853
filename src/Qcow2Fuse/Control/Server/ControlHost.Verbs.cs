// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Capabilities;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Control.Messages;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Hints;
using Qcow2Fuse.Images.Opening;
using Qcow2Fuse.Images.Verbs;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Output;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Control.Server;

/// <summary>The verbs, each with what its command does on a file of its own.</summary>
internal sealed partial class ControlHost
{
    /// <summary><c>info</c>.</summary>
    public ControlAnswer Info(InfoCall call) => OnImage(call, (nodes, device) =>
    {
        // Lists are read from the file while they are printed.
        ControlAnswer Print(BlockDevice file) => Printed(call, text => InfoVerb.Write(
            InfoVerb.Of(file, call.Shown, call.Format), call.Json, text));
        if (device is IStillFile still)
            return still.WhileStill(Print);
        using FileDevice file = nodes.Image.OpenFile();
        return Print(file);
    });

    /// <summary><c>check</c>. Guest writes wait until it is done.</summary>
    public ControlAnswer Check(CheckCall call) => OnImage(call, (_, device) =>
    {
        RepairResult result = CheckVerb.Of(device, Printable.Text(call.Shown), context.Settings.Memory);
        List<string> messages = [];
        int exitCode = 0;
        ControlAnswer answer = Printed(call, text => exitCode = CheckOutcome.Write(
            result, call.Shown, call.Json, call.Quiet, text, messages.Add));
        return answer with { ExitCode = exitCode, Messages = messages };
    });

    /// <summary><c>snapshot</c>. What the kernel holds is not in one that is taken here: the caller flushes it.
    /// </summary>
    public ControlAnswer Snapshot(SnapshotCall call) => OnImage(call, (_, device) =>
    {
        string name = Printable.Text(call.Shown);
        if (device is not ISnapshots)
            throw KnownFormat.NoSnapshots(name);
        if (call.Apply is not null)
        {
            throw new CommandException(
                ExitCode.Failure,
                $"{name}: is mounted, and a disk in use cannot go back to a snapshot",
                Advice.ToUnmountFirst(mount.MountPoint));
        }

        if ((call.Create ?? call.Delete) is null)
        {
            return SnapshotVerb.ListOf(device, name, snapshots => Printed(
                call, text => SnapshotVerb.Write(snapshots, call.Json, text)));
        }

        RequireWritable(device, call);
        SnapshotVerb.Apply(device, name, new SnapshotChange(call.Create, Delete: call.Delete));
        HostLog.Asked(
            context.Logger, device.Name, call.Create is null ? "a snapshot was deleted" : "a snapshot was taken");
        return new ControlAnswer();
    });

    /// <summary><c>resize</c>. The kernel forgets the size that it has cached.</summary>
    public ControlAnswer Resize(ResizeCall call) => OnImage(call, (nodes, device) =>
    {
        RequireWritable(device, call);
        if (!Enum.TryParse(call.Preallocation ?? "off", ignoreCase: true, out Preallocation preallocation))
            throw CommandException.Usage($"unknown preallocation {Printable.Text(call.Preallocation!)}");
        long old = device.Length;
        ResizeVerb.Apply(device, call.Shown, new ResizeRequest(call.Size, preallocation, call.Shrink));
        nodes.Image.NoteResize(Math.Min(old, device.Length));
        context.AwaitInvalidations();
        HostLog.Asked(context.Logger, device.Name, "resized");
        return new ControlAnswer(
            Output: call.Quiet ? "" : ResizeVerb.Done + "\n");
    });

    /// <summary><c>bitmap</c>.</summary>
    public ControlAnswer Bitmap(BitmapCall call) => OnImage(call, (_, device) =>
    {
        RequireWritable(device, call);
        if (call.SourceFile is not null)
            RefuseOwnMount(call.SourceFile);
        using OpenedImage? source = call.SourceFile is null
            ? null : BitmapVerb.Open(call.SourceFile, call.SourceFormat, readOnly: true);
        BitmapVerb.Apply(
            device, Printable.Text(call.Shown), source,
            new BitmapRequest(call.Bitmap, [.. call.Steps.Select(static step => step.ToStep())], call.Granularity));
        HostLog.Asked(context.Logger, device.Name, "a bitmap was changed");
        return new ControlAnswer();
    });

    /// <summary>
    /// <c>umount</c>: everything is durable before the mount goes, or it stays. What was written meanwhile is durable
    /// when the answer comes, unless it is to go as it is.
    /// </summary>
    public ControlAnswer Unmount(UmountCall call)
    {
        try
        {
            images.Flush();
            MountEntry[] before = [.. Places()];
            mount.Unmount(call.Lazy);
            if (call.Lazy)
                return new ControlAnswer();
            if (Places().FirstOrDefault(place => before.Any(place.IsSameMount)) is { MountPoint: { } left })
            {
                return Failed(
                    ExitCode.System, $"{mount.MountPoint}: is unmounted here, but still mounted on {left}",
                    Advice.ToUnmount(left));
            }

            if (!server.WaitForEnd(EndPatience))
                return Failed(ExitCode.System, $"{mount.MountPoint}: is unmounted here, but still mounted elsewhere");
            images.Flush();
            return new ControlAnswer();
        }
        catch (BlockException exception)
        {
            return Failed(ExitCode.System, exception.Message);
        }
        catch (FuseMountException exception)
        {
            return Failed(ExitCode.OfUnmount(exception.Error), exception.Message, Advice.For(exception));
        }
    }

    /// <summary>Where the mount is seen, in the mount namespace of this process.</summary>
    private IEnumerable<MountEntry> Places() => MountTable.Read().Where(entry =>
        OwnMount.Is(entry) && entry.Minor == mount.Connection);

    private static ControlAnswer Printed(ControlCall call, Action<TextWriter> write)
    {
        using BoundedText text = new(Printable.Text(call.Shown)) { NewLine = "\n" };
        write(text);
        return new ControlAnswer(Output: text.ToString());
    }

    /// <summary>A daemon that reads from its own mount could wait for itself.</summary>
    private void RefuseOwnMount(string path)
    {
        ulong own = DeviceNumber.Of(MountTable.FindAt(mount.MountPoint)?.Device ?? "");
        if (FileIdentity.At(path) is { } identity && identity.Device == own)
            throw new CommandException(ExitCode.Failure, $"{Printable.Text(path)}: is a file of this mount");
    }
}
