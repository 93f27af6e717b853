// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Requests that take long leave the workers to others.</summary>
public sealed class LongCallTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task Opens_that_take_long_keep_nobody_else_waiting()
    {
        using SemaphoreSlim begun = new(0);
        using ManualResetEventSlim ready = new();
        SlowFileSystem files = WaitingFor(ready, begun);
        using SessionFixture session = SessionFixture.Initialised(files, new FuseServerOptions { Workers = 2 });
        Task<FakeReply>[] opens = [.. Enumerable.Range(0, 20).Select(_ => Open(session))];
        for (int i = 0; i < opens.Length; i++)
            Assert.True(await begun.WaitAsync(Patience));

        Assert.Equal(0, session.GetAttributes().Error);
        long served = session.Server.Activity.Served;
        ready.Set();
        foreach (Task<FakeReply> open in opens)
            Assert.Equal(0, (await open.WaitAsync(Patience)).Error);
        Assert.True(SpinWait.SpinUntil(() => session.Server.Activity.Served >= served + opens.Length, Patience));
    }

    [Fact]
    public async Task The_end_of_a_server_waits_for_them()
    {
        using SemaphoreSlim begun = new(0);
        using ManualResetEventSlim ready = new();
        SlowFileSystem files = new() { OnOpen = () => { begun.Release(); ready.Wait(Patience); return 0; } };
        SessionFixture session = SessionFixture.Initialised(files, new FuseServerOptions { Workers = 2 });
        Task<FakeReply> open = Open(session);
        Assert.True(await begun.WaitAsync(Patience));
        Task end = Task.Run(session.Dispose);
        Assert.True(SpinWait.SpinUntil(() => session.Server.Session.IsInitialised, Patience));
        Assert.False(end.IsCompleted);
        ready.Set();
        await end.WaitAsync(Patience);
        Assert.Equal(0, (await open.WaitAsync(Patience)).Error);
    }

    /// <summary>An end of one of the opens, say, can only be told by a worker.</summary>
    [Fact]
    public async Task Where_no_thread_can_be_had_one_worker_is_left()
    {
        using SemaphoreSlim begun = new(0);
        using ManualResetEventSlim ready = new();
        SlowFileSystem files = WaitingFor(ready, begun);
        FuseServerOptions options = new() { Workers = 3, HasRoom = static () => false };
        using SessionFixture session = SessionFixture.Initialised(files, options);
        Task<FakeReply>[] opens = [Open(session), Open(session)];
        for (int i = 0; i < opens.Length; i++)
            Assert.True(await begun.WaitAsync(Patience));

        for (int i = 0; i < 3; i++)
            Assert.Equal(-Errno.EAGAIN, (await Open(session).WaitAsync(Patience)).Error);
        Assert.Equal(0, session.GetAttributes().Error);
        ready.Set();
        foreach (Task<FakeReply> open in opens)
            Assert.Equal(0, (await open.WaitAsync(Patience)).Error);
        Assert.Equal(0, (await Open(session).WaitAsync(Patience)).Error);
    }

    /// <summary>The pool behind the rings has as many threads as there are workers, and one is left of them too.
    /// </summary>
    [Fact]
    public async Task Where_no_thread_can_be_had_one_of_the_pool_behind_the_rings_is_left()
    {
        using SemaphoreSlim begun = new(0);
        using ManualResetEventSlim ready = new();
        FuseServerOptions options = new() { Workers = 3, Uring = true, HasRoom = static () => false };
        using SessionFixture session =
            new(WaitingFor(ready, begun), options, new FakeKernel { RingCount = 1, RingDepth = 8 });
        Assert.Equal(0, session.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0).Error);
        Assert.True(session.Server.WaitForInit(Patience));
        Assert.True(session.Server.UsesUring);
        ulong unique = 0;
        Task<FakeReply> Send(FuseOpcode operation, int arguments) => session.Kernel.Rings[0].SendAsync(
            FakeRingRequest.Of((uint)operation, SessionFixture.File, unique += 2, new byte[arguments], []));

        Task<FakeReply>[] opens = [Send(FuseOpcode.Open, 8), Send(FuseOpcode.Open, 8)];
        for (int i = 0; i < opens.Length; i++)
            Assert.True(await begun.WaitAsync(Patience));
        for (int i = 0; i < 3; i++)
            Assert.Equal(-Errno.EAGAIN, (await Send(FuseOpcode.Open, 8).WaitAsync(Patience)).Error);
        Assert.Equal(0, (await Send(FuseOpcode.GetAttr, 16).WaitAsync(Patience)).Error);
        ready.Set();
        foreach (Task<FakeReply> open in opens)
            Assert.Equal(0, (await open.WaitAsync(Patience)).Error);
        Assert.Equal(0, (await Send(FuseOpcode.Open, 8).WaitAsync(Patience)).Error);
    }

    [Fact]
    public async Task Threads_for_which_memory_was_short_do_not_count()
    {
        using SemaphoreSlim begun = new(0);
        using ManualResetEventSlim ready = new();
        bool isShort = true;
        FuseServerOptions options = new()
        {
            Workers = 2,
            HasRoom = () => Volatile.Read(ref isShort) ? throw new InsufficientMemoryException() : true,
        };
        using SessionFixture session = SessionFixture.Initialised(WaitingFor(ready, begun), options);
        ready.Set();
        for (int i = 0; i < 100; i++)
        {
            Assert.Equal(0, (await Open(session).WaitAsync(Patience)).Error);
            Assert.True(await begun.WaitAsync(Patience));
        }

        ready.Reset();
        Volatile.Write(ref isShort, false);
        Task<FakeReply>[] opens = [.. Enumerable.Range(0, 20).Select(_ => Open(session))];
        for (int i = 0; i < opens.Length; i++)
            Assert.True(await begun.WaitAsync(Patience));
        ready.Set();
        foreach (Task<FakeReply> open in opens)
            Assert.Equal(0, (await open.WaitAsync(Patience)).Error);
    }

    [Theory]
    [InlineData(FuseOpcode.Fallocate)]
    [InlineData(FuseOpcode.CopyFileRange)]
    [InlineData(FuseOpcode.CopyFileRange64)]
    internal async Task What_goes_far_keeps_nobody_else_waiting(FuseOpcode operation)
    {
        using ManualResetEventSlim begun = new();
        using ManualResetEventSlim ready = new();
        SlowFileSystem files = new()
        {
            OnOpen = static () => 0,
            OnChange = () =>
            {
                begun.Set();
                return ready.Wait(Patience) ? -Errno.ENOSPC : -Errno.EIO;
            },
        };
        using SessionFixture session = SessionFixture.Initialised(files, new FuseServerOptions { Workers = 1 });
        byte[] arguments = operation == FuseOpcode.Fallocate
            ? Bytes(new FuseFallocateIn { Length = 1 << 30 })
            : Bytes(new FuseCopyFileRangeIn { Length = 1 << 30 });
        Task<FakeReply> change = session.Kernel.SendAsync((uint)operation, SessionFixture.File, arguments);
        Assert.True(begun.Wait(Patience));
        Assert.Equal(0, session.GetAttributes().Error);
        ready.Set();
        Assert.Equal(-Errno.ENOSPC, (await change.WaitAsync(Patience)).Error);
    }

    /// <summary>Opens tell that they have begun, and end when the test says so.</summary>
    private static SlowFileSystem WaitingFor(ManualResetEventSlim ready, SemaphoreSlim begun) => new()
    {
        OnOpen = () =>
        {
            begun.Release();
            return ready.Wait(Patience) ? 0 : -Errno.EIO;
        },
    };

    private static byte[] Bytes<T>(in T value)
        where T : unmanaged =>
        MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in value)).ToArray();

    [Theory]
    [InlineData((uint)FuseOpcode.Read)]
    [InlineData((uint)FuseOpcode.ReadDir)]
    [InlineData((uint)FuseOpcode.SetAttr)]
    [InlineData((uint)FuseOpcode.Lookup)]
    [InlineData((uint)FuseOpcode.OpenDir)]
    public async Task Whatever_may_open_an_image_or_walk_keeps_nobody_else_waiting(uint opcode)
    {
        using SemaphoreSlim begun = new(0);
        using ManualResetEventSlim ready = new();
        SlowFileSystem files = WaitingFor(ready, begun);
        using SessionFixture session = SessionFixture.Initialised(files, new FuseServerOptions { Workers = 2 });

        // More is asked for than the buffers of short requests have.
        const int Size = 100_000;
        byte[] body = new byte[88];
        BinaryPrimitives.WriteInt32LittleEndian(body.AsSpan(16), Size);
        if (opcode == (uint)FuseOpcode.Lookup)
            body = [(byte)'a', 0];
        Task<FakeReply>[] requests =
            [.. Enumerable.Range(0, 20).Select(_ => session.Kernel.SendAsync(opcode, SessionFixture.File, body))];
        for (int i = 0; i < requests.Length; i++)
            Assert.True(await begun.WaitAsync(Patience));
        Assert.Equal(0, session.GetAttributes().Error);
        ready.Set();
        foreach (Task<FakeReply> request in requests)
        {
            FakeReply reply = await request.WaitAsync(Patience);
            Assert.Equal(0, reply.Error);
            if (opcode == (uint)FuseOpcode.Read)
                Assert.Equal(Size, reply.Payload.Length);
        }
    }

    private static Task<FakeReply> Open(SessionFixture session) => session.Kernel.SendAsync(
        (uint)FuseOpcode.Open, SessionFixture.File, new byte[8]);

    /// <summary>Opening takes as long as a test says.</summary>
    private sealed class SlowFileSystem : IFuseFileSystem
    {
        public required Func<int> OnOpen { get; init; }

        public Func<int> OnChange { get; init; } = static () => 0;

        public bool MayTakeLong(ulong node) => true;

        public int Lookup(ulong parent, ReadOnlySpan<byte> name, out FuseAttributes attributes)
        {
            attributes = default;
            return OnOpen();
        }

        public int GetAttributes(ulong node, out FuseAttributes attributes)
        {
            attributes = default;
            return 0;
        }

        public int Open(ulong node, FuseOpenRequest request, out FuseOpenResult result)
        {
            result = default;
            return OnOpen();
        }

        public int Read(ulong node, ulong handle, long offset, Span<byte> destination) =>
            OnOpen() is < 0 and var error ? error : destination.Length;

        public int Write(ulong node, ulong handle, long offset, ReadOnlySpan<byte> source, FuseWriteKind kind) => 0;

        public int Allocate(ulong node, ulong handle, FuseAllocateMode mode, long offset, long length) => OnChange();

        public long CopyRange(in FuseFilePlace source, in FuseFilePlace destination, long length) => OnChange();

        public int Fsync(ulong node, ulong handle, bool dataOnly) => 0;

        public int GetStatistics(ulong node, out FuseStatistics statistics)
        {
            statistics = default;
            return 0;
        }

        public int SetAttributes(ulong node, in FuseAttributeChange change, out FuseAttributes attributes)
        {
            attributes = default;
            return OnOpen();
        }

        public int OpenDirectory(ulong node, out ulong handle)
        {
            handle = 0;
            return OnOpen();
        }

        public int ReadDirectory(ulong node, ulong handle, long offset, ref FuseDirectoryWriter entries) => OnOpen();
    }
}
