// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Faults;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Faults;

/// <summary>What a power cut may leave, and what it may not.</summary>
public sealed class CrashStatesTests
{
    private const int Sector = SectorTable.SectorSize;

    private readonly CrashDevice _disk = new();

    [Fact]
    public void Without_a_flush_a_write_may_be_there_or_not_or_torn()
    {
        _disk.Write(0, Filled(4 * Sector, 1));
        _disk.Flush();
        _disk.StartRecording();
        _disk.Write(0, Filled(4 * Sector, 2));
        HashSet<string> seen = States(200);
        Assert.Contains("1111", seen);
        Assert.Contains("2222", seen);
        Assert.Contains("2111", seen);
        Assert.Contains("1222", seen);
    }

    [Fact]
    public void After_a_flush_a_write_is_there()
    {
        _disk.Write(0, Filled(4 * Sector, 1));
        _disk.StartRecording();
        _disk.Write(0, Filled(4 * Sector, 2));
        _disk.Flush();
        CrashStates states = new(_disk.Initial, _disk.Log, 1, 200);
        long flushed = _disk.Log[1].End;
        int after = 0;
        while (states.Next())
        {
            if (states.Time >= flushed)
            {
                Assert.Equal("2222", Text(states.State));
                after++;
            }
        }

        Assert.True(after > 50);
    }

    [Fact]
    public void A_sector_holds_its_content_after_one_of_the_writes_to_it()
    {
        _disk.Write(0, Filled(Sector, 1));
        _disk.StartRecording();
        _disk.Write(0, [2]);
        _disk.Write(1, [3]);
        CrashStates states = new(_disk.Initial, _disk.Log, 7, 400);
        HashSet<(byte, byte)> seen = [];
        while (states.Next())
        {
            byte[] bytes = states.State.ToArray();
            seen.Add((bytes[0], bytes[1]));
        }

        Assert.Equal(new HashSet<(byte, byte)> { (1, 1), (2, 1), (2, 3) }, seen);
    }

    [Fact]
    public void Later_writes_may_be_there_without_earlier_ones()
    {
        _disk.Write(0, Filled(2 * Sector, 1));
        _disk.StartRecording();
        _disk.Write(0, Filled(Sector, 2));
        _disk.Write(Sector, Filled(Sector, 3));
        Assert.Contains("13", States(200));
    }

    [Fact]
    public void A_write_that_was_in_flight_at_the_flush_is_not_durable()
    {
        int one = _disk.Table.Intern(Filled(Sector, 1));
        CrashOp write = Op(0, CrashOpKind.Write, begin: 1, end: 4, one);
        CrashOp flush = Op(1, CrashOpKind.Flush, begin: 2, end: 3);
        HashSet<string> seen = States(100, write, flush);
        Assert.Contains("1", seen);
        Assert.Contains("0", seen);
    }

    [Fact]
    public void A_durable_sector_never_goes_back_to_an_earlier_write_that_was_in_flight()
    {
        int one = _disk.Table.Intern(Filled(Sector, 1)), two = _disk.Table.Intern(Filled(Sector, 2));
        CrashOp slow = Op(0, CrashOpKind.Write, begin: 1, end: 9, one);
        CrashOp quick = Op(1, CrashOpKind.Write, begin: 2, end: 3, two);
        CrashOp flush = Op(2, CrashOpKind.Flush, begin: 4, end: 5);
        CrashStates states = new(new SectorImage(_disk.Table), [slow, quick, flush], 3, 300);
        while (states.Next())
        {
            if (states.Time >= 5)
                Assert.Equal("2", Text(states.State));
        }
    }

    [Fact]
    public void Growth_may_be_missing_and_what_was_not_written_reads_as_zeroes()
    {
        _disk.Write(0, Filled(Sector, 1));
        _disk.StartRecording();
        _disk.Write(Sector, Filled(Sector, 2));
        _disk.Write(2 * Sector, Filled(Sector, 3));
        HashSet<string> seen = States(300);
        Assert.Contains("1", seen);
        Assert.Contains("12", seen);
        Assert.Contains("103", seen);
        Assert.Contains("100", seen);
    }

    [Fact]
    public void A_shrunk_file_keeps_or_loses_its_end()
    {
        _disk.Write(0, Filled(3 * Sector, 1));
        _disk.StartRecording();
        _disk.Resize(Sector);
        _disk.Resize(2 * Sector);
        HashSet<string> seen = States(300);
        Assert.Contains("111", seen);
        Assert.Contains("10", seen);
        Assert.DoesNotContain("11", seen.Where(state => state.Length > 3));
    }

    [Fact]
    public void The_same_seed_yields_the_same_states()
    {
        SeededRandom random = new(4);
        for (int i = 0; i < 30; i++)
            _disk.Write(random.Below(20) * Sector, Filled(Sector * (1 + random.Below(3)), (byte)(1 + (i % 9))));
        List<string> first = [], second = [];
        foreach (List<string> list in new[] { first, second })
        {
            CrashStates states = new(_disk.Initial, _disk.Log, 99, 100);
            while (states.Next())
                list.Add(Text(states.State) + states.Describe());
        }

        Assert.Equal(100, first.Count);
        Assert.Equal(first, second);
    }

    private static byte[] Filled(int length, byte value)
    {
        byte[] bytes = new byte[length];
        bytes.AsSpan().Fill(value);
        return bytes;
    }

    private static CrashOp Op(int index, CrashOpKind kind, long begin, long end, params int[] ids) => new()
    {
        Index = index,
        Kind = kind,
        Offset = 0,
        Length = ids.Length * Sector,
        Begin = begin,
        End = end,
        IdsAfter = ids,
        ChangesLength = kind == CrashOpKind.Write,
        LengthAfter = Sector,
    };

    /// <summary>The first byte of every sector, one digit each.</summary>
    private static string Text(SectorImage state)
    {
        byte[] bytes = state.ToArray();
        IEnumerable<int> sectors = Enumerable.Range(0, bytes.Length / Sector);
        return string.Concat(sectors.Select(sector => (char)('0' + bytes[sector * Sector])));
    }

    private HashSet<string> States(int count) => States(count, [.. _disk.Log]);

    private HashSet<string> States(int count, params CrashOp[] log)
    {
        HashSet<string> seen = [];
        SectorImage initial = _disk.Initial;
        CrashStates states = new(initial, log, 5, count);
        while (states.Next())
            seen.Add(states.State.Length < Sector ? "0" : Text(states.State));
        return seen;
    }
}
