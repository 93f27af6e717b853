// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Memory;
using Qcow2Fuse.Hosting.Restart;
using Qcow2Fuse.Linux.Libc;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

public sealed class NewerRangesTests
{
    [Fact]
    public void A_file_is_kept_away_from_what_was_changed_through_others()
    {
        using NewerRanges ranges = New();
        ranges.Add(100, 200, node: 1, ticket: 5, delivered: 0);
        ranges.Add(200, 250, node: 2, ticket: 6, delivered: 0);
        Assert.Equal((0, 100), ranges.Outside(0, 1000, node: 3, delivered: 4));
        Assert.Equal((250, 1000), ranges.Outside(100, 1000, node: 3, delivered: 4));
        Assert.Equal((250, 250), ranges.Outside(150, 250, node: 3, delivered: 4));
        Assert.Equal((0, 200), ranges.Outside(0, 1000, node: 1, delivered: 4));
        Assert.Equal((0, 200), ranges.Outside(0, 1000, node: 3, delivered: 5));
        Assert.True(ranges.Any);
        ranges.Forget(6);
        Assert.False(ranges.Any);
    }

    [Fact]
    public void What_has_no_place_is_joined_and_never_dropped()
    {
        using NewerRanges ranges = New();
        for (int i = 0; i < 5000; i++)
            ranges.Add(i * 1000, (i * 1000) + 10, node: (ulong)(i % 3) + 1, ticket: i + 1, delivered: 0);
        Assert.False(ranges.HasRoom);
        for (int i = 0; i < 5000; i++)
            Assert.Equal((i * 1000L) + 10, ranges.Outside(i * 1000, (i * 1000) + 10, node: 9, delivered: 0).Start);
        ranges.Forget(5000);
        Assert.False(ranges.Any);
    }

    /// <summary>The next process knows them before the first request, and forgets them after its own notifications.
    /// </summary>
    [Fact]
    public void The_next_process_finds_them()
    {
        Assert.Equal(0, SharedPage.Create("ranges", NewerRanges.Length, out SharedPage? page));
        using (page)
        {
            NewerRanges earlier = new(page!, 0);
            earlier.Prepare();
            earlier.Add(100, 200, node: 1, ticket: 7, delivered: 0);
            earlier.Add(300, 400, node: 1, ticket: 8, delivered: 0);
            earlier.Forget(7);

            NewerRanges next = new(page!, 0);
            next.Prepare();
            Assert.Equal((400, 1000), next.Outside(300, 1000, node: 2, delivered: 1000));
            Assert.Equal((100, 300), next.Outside(100, 1000, node: 2, delivered: 1000));
            next.Add(500, 600, node: 1, ticket: 2, delivered: 0);
            next.EndEarlierWith(1);
            Assert.Equal((300, 500), next.Outside(300, 1000, node: 2, delivered: 1));
        }
    }

    private static NewerRanges New()
    {
        NewerRanges ranges = new(new MemoryBudget(1 << 20), "disk");
        ranges.Prepare();
        return ranges;
    }
}
