// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Hosting.Restart;
using Qcow2Fuse.Protocols.Memory;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Hosting;

/// <summary>What the next process learns of changes that may be lost.</summary>
[Trait(Speed.Name, Speed.Quick)]
public sealed class UnflushedFilterTests : IDisposable
{
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly RestartState _state = RestartState.Create();
    private readonly HeldDevice _child = new();
    private readonly UnflushedFilter _filter;

    public UnflushedFilterTests() => _filter = new UnflushedFilter(_child, _state);

    [Fact]
    public void A_change_counts_until_it_is_flushed()
    {
        Assert.False(_state.IsDirty);
        _filter.Flush();
        Assert.False(_state.IsDirty);
        foreach (Action change in (Action[])
            [
                () => _filter.Write(0, new byte[512]),
                () => _filter.WriteParts(0, new byte[1], new byte[2], new byte[3]),
                () => _filter.WriteZeroes(0, 512, mayUnmap: true),
                () => _filter.Discard(0, 512),
                () => _filter.Resize(8192),
            ])
        {
            change();
            Assert.True(_state.IsDirty);
            _filter.Flush();
            Assert.False(_state.IsDirty);
        }
    }

    [Fact]
    public void It_counts_before_it_is_done_and_when_it_fails()
    {
        _child.OnWrite = () => Assert.True(_state.IsDirty);
        _filter.Write(0, new byte[512]);
        _filter.Flush();
        _child.OnWrite = () => throw new BlockException(BlockErrorKind.Io, "no");
        Assert.Throws<BlockException>(() => _filter.Write(0, new byte[512]));
        Assert.True(_state.IsDirty);
    }

    [Fact]
    public void A_flush_says_nothing_of_a_change_under_way()
    {
        using ManualResetEventSlim begun = new();
        using ManualResetEventSlim goOn = new();
        _child.OnWrite = () =>
        {
            begun.Set();
            Assert.True(goOn.Wait(Patience));
        };
        Task writer = Task.Run(() => _filter.Write(0, new byte[512]));
        Assert.True(begun.Wait(Patience));
        _filter.Flush();
        Assert.True(_state.IsDirty);
        goOn.Set();
        Assert.True(writer.Wait(Patience));
        Assert.True(_state.IsDirty);
        _filter.Flush();
        Assert.False(_state.IsDirty);
    }

    [Fact]
    public void A_flush_covers_only_what_was_before_it()
    {
        _filter.Write(0, new byte[512]);
        _child.OnFlush = () =>
        {
            _child.OnFlush = null;
            _filter.Write(512, new byte[512]);
        };
        _filter.Flush();
        Assert.True(_state.IsDirty);
    }

    [Fact]
    public void A_failed_flush_may_have_lost_something()
    {
        _child.OnFlush = () => throw new BlockException(BlockErrorKind.Io, "no");
        Assert.Throws<BlockException>(_filter.Flush);
        Assert.True(_state.IsDirty);
    }

    [Fact]
    public void Handles_break_only_where_a_change_may_be_lost()
    {
        Assert.False(_state.BeginGeneration());
        Assert.Equal((2u, 0u), (_state.Generation, _state.BrokenBelow));
        _filter.Write(0, new byte[512]);
        Assert.True(_state.BeginGeneration());
        Assert.Equal((3u, 3u), (_state.Generation, _state.BrokenBelow));
        Assert.False(_state.BeginGeneration());
        Assert.Equal((4u, 3u), (_state.Generation, _state.BrokenBelow));
    }

    [Fact]
    public void Facts_come_back_as_they_were_or_not_at_all()
    {
        Assert.False(_state.TryReadFacts(out _));
        RestartFacts facts = new(
            "/a\nb", "/mnt", "0:47", IsFile: true, "AB", [(0, "wb:/a\nb", "/a\nb"), (3, "k", "/p")]);
        Assert.True(_state.TryWriteFacts(facts));
        Assert.True(_state.TryReadFacts(out RestartFacts? read));
        Assert.Equal(facts with { Files = [] }, read with { Files = [] });
        Assert.Equal(facts.Files, read.Files);
        Assert.False(_state.TryWriteFacts(facts with { Source = new string('x', 100_000) }));
        Assert.True(_state.TryReadFacts(out _));
    }

    public void Dispose()
    {
        _filter.Dispose();
        _child.Dispose();
        _state.Dispose();
    }

    private sealed class HeldDevice() : FilterDevice(new MemoryDevice(4096))
    {
        public Action? OnWrite { get; set; }

        public Action? OnFlush { get; set; }

        public override void Write(long offset, ReadOnlySpan<byte> source)
        {
            OnWrite?.Invoke();
            base.Write(offset, source);
        }

        public override void Flush()
        {
            OnFlush?.Invoke();
            base.Flush();
        }
    }
}
