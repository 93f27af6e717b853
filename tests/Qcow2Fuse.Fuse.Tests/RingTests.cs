// SPDX-License-Identifier: MIT
using System.Numerics;
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Uring;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Rings beside /dev/fuse: when they serve, when they do not, and how they end.</summary>
public sealed class RingTests : IDisposable
{
    private const ulong Unique = 77;
    private static readonly TimeSpan Patience = Eventually.Patience;
    private static readonly FuseServerOptions Options = new() { Workers = 4, Uring = true };

    private readonly MemoryFileSystem _files = new(1 << 20);

    public void Dispose() => _files.Dispose();

    [Fact]
    public void RequestsComeByRingsAfterInit()
    {
        using SessionFixture session = new(_files, Options, new FakeKernel { RingCount = 3 });
        Assert.All(session.Kernel.Rings, static ring => Assert.False(ring.IsRegistered));
        FuseInitOut init = session.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0).As<FuseInitOut>();
        Assert.Equal(1u << 9, init.Flags2 & 1u << 9);
        Assert.True(session.Server.WaitForInit(Patience));
        Assert.True(session.Server.UsesUring);
        Assert.Null(session.Server.UringRefusal);
        Assert.Equal(4, session.Server.Activity.Workers);

        byte[] data = new byte[8192];
        new Random(3).NextBytes(data);
        FakeReply written = session.Kernel.Rings[1].Send(Request(
            FuseOpcode.Write, new FuseWriteIn { Offset = 4096, Size = 8192 }, data));
        Assert.Equal(8192u, written.As<FuseWriteOut>().Size);
        FakeReply read = session.Kernel.Rings[2].Send(Request(
            FuseOpcode.Read, new FuseReadIn { Offset = 4096, Size = 8192 }));
        Assert.Equal(data, read.Payload);

        // A name comes in the payload, without fixed arguments.
        FakeReply found = session.Kernel.Rings[0].Send(FakeRingRequest.Of(
            (uint)FuseOpcode.Lookup, SessionFixture.Root, Unique, [], FakeKernel.Name(MemoryFileSystem.FileName)));
        Assert.Equal(SessionFixture.File, found.As<FuseEntryOut>().Node);

        // What does not come by rings is still taken.
        session.Kernel.Post((uint)FuseOpcode.Forget, SessionFixture.File, new byte[8]);
        Eventually.Holds(() => session.Kernel.Received == 2);
    }

    [Fact]
    public void AKernelThatOffersNoRingsIsServedByAllWorkers()
    {
        FailingFileSystem files = new();
        using SessionFixture session = new(files, Options, new FakeKernel { RingCount = 3 });
        session.Send(FuseOpcode.Init, SessionFixture.InitRequest(offered: ~(1ul << 41)), node: 0);
        Assert.True(session.Server.WaitForInit(Patience));
        Assert.False(session.Server.UsesUring);
        Assert.Equal("the kernel does not offer it", session.Server.UringRefusal);
        ShouldServeAtOnce(session, files);
        Assert.All(session.Kernel.Rings, static ring => Assert.False(ring.IsRegistered));
    }

    [Theory]
    [InlineData(0, 0, "the fake kernel has none")]
    [InlineData(2, -Errno.ENOSYS, "this kernel has no io_uring")]
    [InlineData(2, -Errno.EPERM, "io_uring is forbidden to this process")]
    [InlineData(2, -Errno.ENOMEM, "io_uring: Cannot allocate memory")]
    public void WithoutRingsNoneAreOffered(int count, int openResult, string refusal)
    {
        FailingFileSystem files = new();
        FakeKernel kernel = new() { RingCount = count, RingOpenResult = openResult };
        using SessionFixture session = new(files, Options, kernel);
        FuseInitOut init = session.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0).As<FuseInitOut>();
        Assert.Equal(0u, init.Flags2 & 1u << 9);
        Assert.True(session.Server.WaitForInit(Patience));
        Assert.Equal(refusal, session.Server.UringRefusal);
        ShouldServeAtOnce(session, files);
    }

    [Fact]
    public void ARefusedRegistrationEndsTheServer()
    {
        FakeKernel kernel = new() { RingCount = 2, RingRegisterResult = -Errno.EINVAL };
        using SessionFixture session = new(_files, Options, kernel);
        session.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0);
        Assert.False(session.Server.WaitForInit(Patience));
        Assert.True(session.Server.WaitForEnd(Patience));
        Assert.Equal(-Errno.EINVAL, session.Server.UringFailure);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void AnEndBeforeAndAfterInitEndsAll(bool initialised, bool unmount)
    {
        using SessionFixture session = new(_files, Options, new FakeKernel { RingCount = 2 });
        if (initialised)
        {
            session.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0);
            Assert.True(session.Server.WaitForInit(Patience));
        }

        if (unmount)
            session.Kernel.End();
        else
            session.Server.Stop();
        Assert.True(session.Server.WaitForEnd(Patience));
    }

    [Theory]
    [InlineData(1, 48)]
    [InlineData(2, 48)]
    [InlineData(8, 12)]
    [InlineData(128, 4)]
    public void EntriesPerProcessorAreBounded(int processors, int entries) =>
        Assert.Equal(entries, FuseUringPlan.EntriesPerProcessor(processors));

    /// <summary>On a thread of its own, whose affinity is nobody else's business.</summary>
    [Fact]
    public void ARingUnderLoadLeavesItsProcessor()
    {
        List<ulong[]> places = [];
        ulong[] allowed = [];
        int first = 0;
        Thread thread = new(() =>
        {
            allowed = Processors.Allowed();
            first = Array.FindIndex(allowed, static word => word != 0);
            RingPlace place = RingPlace.At((first * 64) + BitOperations.TrailingZeroCount(allowed[first]));
            foreach (int underWay in (int[])[1, 8, 3, 1])
            {
                for (int i = 0; i < 256; i++)
                    place.Note(underWay);
                places.Add(Processors.Allowed());
            }
        });
        thread.Start();
        Assert.True(thread.Join(Patience));

        ulong own = allowed[first] & (ulong)-(long)allowed[first];
        ulong[] alone = new ulong[allowed.Length];
        alone[first] = own;
        ulong[] others = [.. allowed];
        others[first] &= ~own;
        if (others.All(static word => word == 0))
            others = allowed;
        Assert.Equal([alone, others, others, alone], places);
    }

    [Theory]
    [InlineData("0\n", new[] { 0 })]
    [InlineData("0-2,5\n", new[] { 0, 1, 2, 5 })]
    [InlineData("\n", new int[0])]
    public void ListsOfProcessorsAreRead(string text, int[] expected) =>
        Assert.Equal(expected, Processors.Parse(text));

    private static void ShouldServeAtOnce(SessionFixture session, FailingFileSystem files)
    {
        using Barrier barrier = new(4);
        files.Answer = () => barrier.SignalAndWait(Patience) ? 0 : -Errno.EBUSY;
        Task<FakeReply>[] replies = Enumerable.Range(0, 4)
            .Select(_ => session.Kernel.SendAsync((uint)FuseOpcode.GetAttr, SessionFixture.File, new byte[16]))
            .ToArray();
        Assert.True(Task.WaitAll(replies, Patience));
        Assert.All(replies, static reply => Assert.Equal(0, reply.Result.Error));
    }

    private static FakeRingRequest Request<T>(FuseOpcode opcode, in T arguments, byte[]? payload = null)
        where T : unmanaged => FakeRingRequest.Of(
            (uint)opcode,
            SessionFixture.File,
            Unique,
            MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in arguments)).ToArray(),
            payload ?? []);
}
