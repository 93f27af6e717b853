// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Control.Client;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Control;

/// <summary>Which daemon a command finds for an image.</summary>
public sealed class RunningImageTests : ControlTest
{
    [SkippableFact]
    public void The_image_that_is_meant_is_the_one_that_had_the_name_at_first()
    {
        NewImage("8M", name: "a.qcow2");
        NewImage("8M", name: "b.qcow2");
        string name = PathOf("name");
        File.CreateSymbolicLink(name, PathOf("a.qcow2"));
        using MountedImage mounted = Start(PathOf("a.qcow2"));
        string? found = null;
        int exitCode = RunningImage.OrElse(
            name,
            () =>
            {
                // Somebody exchanges the name while it is found to be locked.
                File.Delete(name);
                File.CreateSymbolicLink(name, PathOf("b.qcow2"));
                throw new BlockException(BlockErrorKind.Locked, "locked");
            },
            running =>
            {
                found = running.Path;
                return 7;
            });
        Assert.Equal((7, PathOf("a.qcow2")), (exitCode, found));
    }
}
