// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Testing;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

/// <summary>
/// The policy for names that images hold. Outside the directory of the image lies a canary that no such name may
/// reach; <c>images/top.qcow2</c> names it in every way there is.
/// </summary>
public sealed class StoragePolicyTests : IDisposable
{
    private readonly ScratchDirectory _scratch = new();
    private readonly FileStorage _storage = new();

    public StoragePolicyTests()
    {
        Directory.CreateDirectory(_scratch.At("images/sub"));
        Directory.CreateDirectory(_scratch.At("outside/deep"));
        File.WriteAllText(_scratch.At("outside/canary"), "canary");
        File.WriteAllText(_scratch.At("outside/deep/canary"), "canary");
        File.WriteAllText(_scratch.At("images/top.qcow2"), "top");
        File.WriteAllText(_scratch.At("images/base"), "base");
        File.WriteAllText(_scratch.At("images/sub/base"), "base");
        File.WriteAllText(_scratch.At("images/sub/a:b"), "base");
        File.CreateSymbolicLink(_scratch.At("images/inside-link"), "sub/base");
        File.CreateSymbolicLink(_scratch.At("images/outside-link"), "../outside/canary");
        File.CreateSymbolicLink(_scratch.At("images/absolute-link"), _scratch.At("outside/canary"));
        File.CreateSymbolicLink(_scratch.At("images/magic-link"), "/proc/self/exe");
        File.CreateSymbolicLink(_scratch.At("images/circle"), "circle");
        Directory.CreateSymbolicLink(_scratch.At("images/directory-link"), "../outside");
        Directory.CreateSymbolicLink(_scratch.At("other-name"), "images");
    }

    public void Dispose() => _scratch.Dispose();

    [Theory]
    [InlineData("base")]
    [InlineData("./base")]
    [InlineData("sub/base")]
    [InlineData("sub/../base")]
    [InlineData("sub//base")]
    [InlineData("inside-link")]
    [InlineData("sub/a:b")]
    [InlineData("{images}/base")]
    [InlineData("{images}//./sub/base")]
    [InlineData("{images}/inside-link")]
    public void A_backing_file_in_or_below_the_directory_of_the_image_is_opened(string name)
    {
        Assert.Equal("base", Read(Open(name)));
    }

    [Theory]
    [InlineData("../outside/canary")]
    [InlineData("sub/../../outside/canary")]
    [InlineData("../images/../outside/canary")]
    [InlineData("outside-link")]
    [InlineData("absolute-link")]
    [InlineData("magic-link")]
    [InlineData("directory-link/canary")]
    [InlineData("{scratch}/outside/canary")]
    [InlineData("{images}/../outside/canary")]
    [InlineData("{images}/outside-link")]
    [InlineData("{images}2/canary")]
    [InlineData("/etc/passwd")]
    [InlineData("/proc/self/environ")]
    [InlineData("../not-there")]
    public void What_lies_outside_is_refused_whether_it_exists_or_not(string name)
    {
        foreach (ReferenceKind kind in Enum.GetValues<ReferenceKind>())
        {
            BlockException failure = ShouldFail(BlockErrorKind.Policy, () => Open(name, kind));
            Assert.StartsWith($"{_scratch.At("images/top.qcow2")}: the ", failure.Message, StringComparison.Ordinal);
            Assert.Equal(kind, failure.Cause!.Kind);
            Assert.Equal(
                kind == ReferenceKind.Backing ? FailureCode.DirectoryNotAllowed : FailureCode.NameRefused,
                failure.Cause.Code);
        }
    }

    [Fact]
    public void The_refusal_says_which_directory_to_allow()
    {
        BlockException failure = ShouldFail(BlockErrorKind.Policy, () => Open("../outside/deep/canary"));
        Assert.Equal(_scratch.At("outside/deep"), failure.Cause?.Place);
    }

    [Theory]
    [InlineData("/dev/sdb")]
    [InlineData("../outside/.hidden")]
    [InlineData(".hidden")]
    public void What_no_allowed_directory_would_open_is_to_be_named_by_the_user(string name)
    {
        BlockException failure = ShouldFail(BlockErrorKind.Policy, () => Open(name));
        Assert.Equal(FailureCode.NameRefused, failure.Cause?.Code);
        Assert.EndsWith(name[(name.LastIndexOf('/') + 1)..], failure.Cause?.Place, StringComparison.Ordinal);
    }

    [Fact]
    public void What_an_allowed_link_leads_to_is_the_directory_to_allow_next()
    {
        File.CreateSymbolicLink(_scratch.At("outside/link"), "deep/canary");
        BlockException failure = ShouldFail(
            BlockErrorKind.Policy, () => Open("../outside/link", allow: [_scratch.At("images/sub")]));
        Assert.Equal(_scratch.At("outside/deep"), failure.Cause?.Place);
    }

    [Theory]
    [InlineData("json:{\"driver\":\"file\",\"filename\":\"base\"}")]
    [InlineData("nbd:localhost:10809")]
    [InlineData("nbd+unix:///?socket=base")]
    [InlineData("http://127.0.0.1/base")]
    [InlineData("file:base")]
    [InlineData("fat:sub")]
    [InlineData("fat:rw:/etc")]
    [InlineData("a:b")]
    [InlineData(":base")]
    [InlineData("ba\0se")]
    public void Names_that_are_no_plain_file_names_are_refused(string name)
    {
        File.WriteAllText(_scratch.At("images/a:b"), "base");
        File.WriteAllText(_scratch.At("images/file:base"), "base");
        foreach (ReferenceKind kind in Enum.GetValues<ReferenceKind>())
            ShouldFail(BlockErrorKind.Policy, () => Open(name, kind));
    }

    [Fact]
    public void A_name_is_escaped_in_the_refusal()
    {
        BlockException failure = ShouldFail(BlockErrorKind.Policy, () => Open("../\u001b]0;x\a\r\nqcow2fuse: fine"));
        Assert.Contains(@"../\x1b]0;x\x07\x0d\x0aqcow2fuse: fine", failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("../outside/canary")]
    [InlineData("outside-link")]
    [InlineData("absolute-link")]
    [InlineData("directory-link/canary")]
    [InlineData("directory-link/deep/canary")]
    [InlineData("{scratch}/outside/canary")]
    [InlineData("{images}/../outside/deep/../canary")]
    public void An_allowed_directory_opens_backing_files_in_and_below_it(string name)
    {
        Assert.Equal("canary", Read(Open(name, allow: [_scratch.At("images/sub"), _scratch.At("outside")])));
        ShouldFail(BlockErrorKind.Policy, () => Open(name, allow: [_scratch.At("outside/deep/..") + "/../images"]));
    }

    [Fact]
    public void An_allowed_directory_does_not_open_its_neighbours()
    {
        ShouldFail(BlockErrorKind.Policy, () => Open("../outside/canary", allow: [_scratch.At("outside/deep")]));
        File.CreateSymbolicLink(_scratch.At("outside/deep/out"), "../canary");
        ShouldFail(BlockErrorKind.Policy, () => Open("../outside/deep/out", allow: [_scratch.At("outside/deep")]));
        ShouldFail(BlockErrorKind.Policy, () => Open("magic-link", allow: [_scratch.At("outside")]));
    }

    [Fact]
    public void An_allowed_directory_does_not_count_for_data_files()
    {
        ShouldFail(
            BlockErrorKind.Policy,
            () => Open("../outside/canary", ReferenceKind.DataFile, [_scratch.At("outside")]));
    }

    [Fact]
    public void A_data_file_is_opened_for_writing_but_never_by_a_link()
    {
        using BlockDevice file = Open("base", ReferenceKind.DataFile);
        Assert.False(file.IsReadOnly);
        file.Write(0, "BASE"u8);
        Assert.Equal("BASE", File.ReadAllText(_scratch.At("images/base")));
        ShouldFail(BlockErrorKind.Policy, () => Open("inside-link", ReferenceKind.DataFile));
        ShouldFail(BlockErrorKind.Policy, () => Open("outside-link", ReferenceKind.DataFile));
    }

    [Fact]
    public void Links_in_a_circle_are_refused()
    {
        ShouldFail(BlockErrorKind.Policy, () => Open("circle"));
    }

    [Fact]
    public void What_is_missing_is_not_found()
    {
        ShouldFail(BlockErrorKind.NotFound, () => Open("missing"));
        ShouldFail(BlockErrorKind.NotFound, () => Open("base/below-a-file"));
        ShouldFail(BlockErrorKind.NotFound, () => Open("../missing", allow: [_scratch.At("outside")]));
    }

    [Fact]
    public void Directories_and_FIFOs_are_refused_and_do_not_hang()
    {
        using (Process make = Process.Start("mkfifo", [_scratch.At("images/fifo")]))
            make.WaitForExit();
        Task opening = Task.Run(() =>
        {
            foreach (ReferenceKind kind in Enum.GetValues<ReferenceKind>())
            {
                ShouldFail(BlockErrorKind.InvalidFormat, () => Open("fifo", kind));
                ShouldFail(BlockErrorKind.InvalidFormat, () => Open("sub", kind));
            }

            BlockException failure =
                ShouldFail(BlockErrorKind.InvalidFormat, () => FileDevice.Open(_scratch.At("images/fifo")));
            Assert.EndsWith(": is a FIFO", failure.Message, StringComparison.Ordinal);
        });
        Assert.True(opening.Wait(Eventually.Patience), "it waits for the other end");
    }

    [Fact]
    public void The_directory_may_have_another_name_than_the_image_holds()
    {
        using FileDevice top = OpenTop("other-name/top.qcow2");
        StorageReference reference = new(top, _scratch.At("images/base"), ReferenceKind.Backing, []);
        using BlockDevice file = _storage.OpenReference(reference, new StorageAccess(true, false)).Device;
        Assert.Equal("base", Read(file));
    }

    [Fact]
    public void The_file_opened_is_named_as_seen_from_where_the_image_was_named()
    {
        using FileDevice top = OpenTop("images/top.qcow2");
        StorageReference reference = new(top, "sub/base", ReferenceKind.Backing, []);
        IStorageFile file = _storage.OpenReference(reference, new StorageAccess(true, false));
        file.Device.Dispose();
        Assert.Equal(_scratch.At("images/sub/base"), file.Path);
    }

    private BlockDevice Open(
        string name, ReferenceKind kind = ReferenceKind.Backing, IReadOnlyList<string>? allow = null)
    {
        string real = name
            .Replace("{images}", _scratch.At("images"), StringComparison.Ordinal)
            .Replace("{scratch}", _scratch.Path, StringComparison.Ordinal);
        using FileDevice top = OpenTop("images/top.qcow2");
        StorageReference reference = new(top, real, kind, allow ?? []);
        return _storage.OpenReference(reference, new StorageAccess(kind == ReferenceKind.Backing, false)).Device;
    }

    private FileDevice OpenTop(string name) =>
        (FileDevice)_storage.OpenNamed(_scratch.At(name), new StorageAccess(ReadOnly: true, Direct: false));

    private static string Read(BlockDevice device)
    {
        using (device)
            return System.Text.Encoding.ASCII.GetString(ReadAll(device));
    }
}
