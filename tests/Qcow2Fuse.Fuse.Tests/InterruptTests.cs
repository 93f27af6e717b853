// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>FUSE_INTERRUPT: the kernel says that nobody waits for a request any more.</summary>
public sealed class InterruptTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task A_request_in_work_learns_that_nobody_waits_for_it()
    {
        using SemaphoreSlim begun = new(0);
        FailingFileSystem files = new();
        using SessionFixture session = SessionFixture.Initialised(files);
        files.Answer = () =>
        {
            begun.Release();
            return UntilInterrupted(FuseCall.Current!);
        };
        Task<FakeReply> first = Seek(session, 1000);
        Task<FakeReply> second = Seek(session, 1002);
        await begun.WaitAsync(Patience);
        await begun.WaitAsync(Patience);

        Interrupt(session, 1002);
        Assert.Equal(-Errno.EINTR, (await second.WaitAsync(Patience)).Error);
        Assert.False(first.IsCompleted);
        Interrupt(session, 1000);
        Assert.Equal(-Errno.EINTR, (await first.WaitAsync(Patience)).Error);
    }

    [Fact]
    public async Task An_interrupt_that_overtakes_its_request_is_not_lost()
    {
        FailingFileSystem files = new();
        using SessionFixture session = SessionFixture.Initialised(files);
        files.Answer = () => FuseCall.Current!.IsInterrupted ? -Errno.EINTR : 0;
        Interrupt(session, 1000);
        Interrupt(session, 1002);

        // The worker that has taken it may not have come further: the answer to another request says nothing of that.
        Assert.True(SpinWait.SpinUntil(() => session.Kernel.Received >= 3, Patience));
        FakeReply reply = await Seek(session, 1004).WaitAsync(Patience);
        Assert.Equal(0, reply.Error);
        FuseCalls calls = new();
        calls.Interrupt(7);
        FuseCall call = calls.Create();
        calls.Begin(call, 9);
        Assert.False(call.IsInterrupted);
        call.End();
        calls.Begin(call, 7);
        Assert.True(call.IsInterrupted);
        call.End();
        calls.Begin(call, 11);
        Assert.False(call.IsInterrupted);
        call.End();
    }

    [Fact]
    public void What_nobody_has_in_work_is_forgotten()
    {
        FuseCalls calls = new();
        FuseCall call = calls.Create();
        for (ulong unique = 2; unique < 4000; unique += 2)
            calls.Interrupt(unique);
        calls.Begin(call, 2);
        Assert.False(call.IsInterrupted);
        call.End();
        Assert.Null(FuseCall.Current);
    }

    private static int UntilInterrupted(FuseCall call) =>
        SpinWait.SpinUntil(() => call.IsInterrupted, Patience) ? -Errno.EINTR : -Errno.EIO;

    private static Task<FakeReply> Seek(SessionFixture session, ulong unique)
    {
        FuseLseekIn seek = new() { Whence = (uint)FuseSeekKind.Data };
        return session.Kernel.SendRawAsync(
            FakeKernel.BuildRequest(
                (uint)FuseOpcode.Lseek, SessionFixture.File, unique,
                MemoryMarshal.AsBytes(new ReadOnlySpan<FuseLseekIn>(in seek))),
            wantsReply: true)!;
    }

    private static void Interrupt(SessionFixture session, ulong unique) =>
        session.Kernel.Post((uint)FuseOpcode.Interrupt, 0, BitConverter.GetBytes(unique));
}
