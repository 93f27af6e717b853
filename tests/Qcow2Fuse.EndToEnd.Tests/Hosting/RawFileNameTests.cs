// SPDX-License-Identifier: MIT
using System.Text.RegularExpressions;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Mounts;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>The names of the raw files of a directory: no two things share one.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed partial class RawFileNameTests
{
    [Theory]
    [InlineData("disk.qcow2", "disk.raw")]
    [InlineData("disk.qcow2 disk.p1.qcow2", "disk.raw disk.p1.qcow2.raw")]
    [InlineData("vm vm.qcow2", "vm.raw vm.qcow2.raw")]
    [InlineData("vm.img vm.qcow2", "vm.img.raw vm.raw")]
    [InlineData("vm vm.qcow2 vm.qcow2.qcow2", "vm.raw vm.qcow2.raw vm.qcow2.qcow2.raw")]
    [InlineData("a.p1 a.p1.raw", "a.p1..raw a.p1.raw.raw")]
    [InlineData("a.p1 a.p1..qcow2", "a.p1...raw a.p1..raw")]
    [InlineData("a.p.qcow2 a.px1.qcow2 ap1.qcow2", "a.p.raw a.px1.raw ap1.raw")]
    public void A_name_that_would_clash_is_the_whole_name_of_the_file(string images, string expected)
    {
        string[] files = images.Split(' ');
        Dictionary<string, string> names = NamesOf(files);
        Assert.Equal(expected.Split(' '), files.Select(file => names[file]));
    }

    [Fact]
    public void No_name_occurs_twice_or_is_a_partitions_whatever_the_images()
    {
        string[] parts = ["vm", ".p1", ".qcow2", ".img", ".raw", ".", ".p1", ".qcow"];
        Random random = new(7);
        for (int i = 0; i < 5000; i++)
        {
            HashSet<string> files = new(StringComparer.Ordinal);
            for (int n = random.Next(1, 9); n > 0; n--)
                files.Add("vm" + string.Concat(random.GetItems(parts, random.Next(5))));
            Dictionary<string, string> names = NamesOf(files);
            Assert.Equal(files.Count, names.Values.Distinct(StringComparer.Ordinal).Count());
            Assert.DoesNotContain(names.Values, static name => PartitionName().IsMatch(name));
        }
    }

    [Fact]
    public void The_name_of_a_long_name_is_no_longer_than_a_file_may_have()
    {
        string first = new string('\u00E9', 124) + "a.qcow2";
        string second = new string('\u00E9', 124) + "b.qcow2";
        string third = new('\uDCFF', 255);
        Dictionary<string, string> names = NamesOf([first, second, third]);
        Assert.Equal(3, names.Values.Distinct(StringComparer.Ordinal).Count());
        Assert.All(names.Values, static name => Assert.InRange(
            ByteText.CountBytes(name.Replace(".raw", ".p99999.raw", StringComparison.Ordinal)), 200, 255));
        Assert.StartsWith("\u00E9\u00E9", names[first], StringComparison.Ordinal);
        Assert.Equal(names[first], RawFileName.For("/srv/" + first));

        // Somebody may call a file as the long one would be called.
        string stolen = names[first][..^4];
        names = NamesOf([first, stolen]);
        Assert.Equal((stolen + "..raw", stolen + ".raw"), (names[first], names[stolen]));
    }

    private static Dictionary<string, string> NamesOf(IReadOnlyCollection<string> files) => files.ToDictionary(
        static file => file, file => RawFileName.In(file, files.Contains) + RawFileName.Ending,
        StringComparer.Ordinal);

    [GeneratedRegex(@"\.p[0-9]+\.raw$")]
    private static partial Regex PartitionName();
}
