// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Schemes;
using Xunit;

namespace Qcow2Fuse.Block.Tests.Storage;

/// <summary>Which kind of storage a name is of.</summary>
public sealed class SchemeTests : IDisposable
{
    private readonly ScratchDirectory _scratch = new();

    public void Dispose() => _scratch.Dispose();

    [Theory]
    [InlineData("disk.qcow2")]
    [InlineData("./a://b")]
    [InlineData("/srv/a://b")]
    [InlineData("://b")]
    [InlineData("a_b://c")]
    [InlineData("9p://c")]
    [InlineData("")]
    public void A_name_without_a_scheme_is_a_files(string name) =>
        Assert.Equal("file", StorageSchemes.Of(name).Name);

    [Theory]
    [InlineData("nbd://host/disk", "nbd")]
    [InlineData("nbd+unix:///disk?socket=s", "nbd+unix")]
    [InlineData("https://host/disk.qcow2", "https")]
    public void A_scheme_that_is_not_known_is_named(string name, string scheme)
    {
        BlockException exception = Assert.Throws<BlockException>(() => StorageSchemes.Of(name));
        Assert.Equal(BlockErrorKind.NotSupported, exception.Kind);
        Assert.Equal($"{name}: is no file, and storage of the kind {scheme} is not supported", exception.Message);
    }

    [Fact]
    public void A_file_may_have_a_name_that_looks_like_one()
    {
        // The test runs in a directory that others use too, so the name is looked up from another one.
        string directory = _scratch.At("nbd:");
        Directory.CreateDirectory(directory);
        File.WriteAllText(Path.Combine(directory, "disk"), "disk");
        string name = Path.GetRelativePath(Environment.CurrentDirectory, _scratch.At(".")) + "/nbd://disk";
        Assert.Equal("file", StorageSchemes.Of(name).Name);
    }
}
