// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Mounting;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Reading the kernel's list of mounts.</summary>
public sealed class MountTableTests
{
    private const string Table =
        """
        22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
        40 22 0:39 / /mnt/a\040b\134c rw,nosuid - fuse.qcow2fuse /srv/x\040y.qcow2 rw,user_id=0
        41 22 0:40 / /mnt/stack rw master:2 propagate_from:3 - tmpfs tmpfs rw
        42 41 0:41 / /mnt/stack rw - fuse.qcow2fuse top.qcow2 rw
        cut off
        """;

    [Fact]
    public void FieldsAreUnescaped()
    {
        MountEntry entry = MountTable.FindAt(MountTable.Parse(Table), "/mnt/a b\\c")!;
        Assert.Equal((40, 22, "0:39"), (entry.Id, entry.ParentId, entry.Device));
        Assert.Equal(("fuse.qcow2fuse", "/srv/x y.qcow2"), (entry.Type, entry.Source));
        Assert.Equal("rw,user_id=0", entry.SuperOptions);
    }

    [Fact]
    public void TheTopmostMountIsFound()
    {
        IReadOnlyList<MountEntry> table = MountTable.Parse(Table);
        Assert.Equal(4, table.Count);
        Assert.Equal(42, MountTable.FindAt(table, "/mnt/stack")?.Id);
        Assert.Equal(42, MountTable.FindAt(table.Reverse().ToList(), "/mnt/stack")?.Id);
        Assert.Null(MountTable.FindAt(table, "/mnt"));
    }

    [Theory]
    [InlineData("plain", "plain")]
    [InlineData(@"\011\012\040\134", "\t\n \\")]
    [InlineData(@"end\04", @"end\04")]
    [InlineData(@"\999", @"\999")]
    [InlineData(@"ä\040ö", "ä ö")]
    public void Unescapes(string field, string text) => Assert.Equal(text, MountTable.Unescape(field));

    [Fact]
    public void ThisSystemHasARoot() => Assert.NotNull(MountTable.FindAt("/"));
}
