// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;
using Xunit.Abstractions;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>
/// Random requests to all workers of a server at once, by both ways: each that wants a reply gets one, well-formed, and
/// nothing ends. QCOW2FUSE_FUZZ_SEED sees a run again.
/// </summary>
public sealed class FuzzTests(ITestOutputHelper output) : IDisposable
{
    private const int Threads = 4;
    private const int Rounds = 5_000;

    // Without FUSE_MAX_PAGES a write has 128 KiB at most, and the buffers are larger.
    private const ulong NoMaxPages = ~(1ul << 22);
    private const int Negotiated = 128 << 10;
    private static readonly TimeSpan Patience = Eventually.Patience;

    private readonly MemoryFileSystem _files = new(4 << 20);

    public void Dispose() => _files.Dispose();

    [Fact]
    public void RandomRequestsByDevFuse()
    {
        int seed = Seed();
        using SessionFixture session = Start(new FakeKernel(), uring: false);
        int errors = 0;
        Run(seed, (random, unique) =>
        {
            byte[] request = NextRequest(random, unique);
            bool wanted = request.Length >= FuseAbi.InHeaderSize
                && !FuseOpcodes.IsUnanswered(MemoryMarshal.Read<FuseOpcode>(request.AsSpan(4)));
            Task<FakeReply>? reply = session.Kernel.SendRawAsync(request, wanted);
            Assert.True(reply?.Wait(Patience) ?? true, $"no reply, seed {seed}");
            if (reply is not null && reply.Result.Error < 0)
                Interlocked.Increment(ref errors);
        });
        ShouldBeSound(session, errors, seed);
        Assert.Equal(0, session.GetAttributes().Error);
    }

    [Fact]
    public void RandomRequestsByRings()
    {
        int seed = Seed();
        using SessionFixture session = Start(new FakeKernel { RingCount = Threads }, uring: true);
        int errors = 0;
        int ring = -1;
        using ThreadLocal<FakeRing> rings = new(() => session.Kernel.Rings[Interlocked.Increment(ref ring)]);
        Run(seed, (random, unique) =>
        {
            if (rings.Value!.Send(NextRingRequest(random, unique)).Error < 0)
                Interlocked.Increment(ref errors);
        });
        ShouldBeSound(session, errors, seed);
        FakeReply alive = session.Kernel.Rings[0].Send(
            FakeRingRequest.Of((uint)FuseOpcode.GetAttr, SessionFixture.File, unique: 2, new byte[16], []));
        Assert.Equal(0, alive.Error);
    }

    [Theory]
    [InlineData(Negotiated, 0)]
    [InlineData(Negotiated + 4096, -Errno.EINVAL)]
    [InlineData(1 << 20, -Errno.EINVAL)]
    public void WritesLargerThanNegotiatedAreInvalid(int length, int error)
    {
        FuseWriteIn write = new() { Size = (uint)length };
        byte[] arguments = MemoryMarshal.AsBytes(new ReadOnlySpan<FuseWriteIn>(in write)).ToArray();
        using SessionFixture session = Start(new FakeKernel { RingCount = 1 }, uring: true);
        Assert.Equal(error, session.Send(FuseOpcode.Write, FakeKernel.Join(arguments, new byte[length])).Error);
        Assert.Equal(error, session.Kernel.Rings[0].Send(FakeRingRequest.Of(
            (uint)FuseOpcode.Write, SessionFixture.File, unique: 2, arguments, new byte[length])).Error);
    }

    private int Seed()
    {
        string? given = Environment.GetEnvironmentVariable("QCOW2FUSE_FUZZ_SEED");
        int seed = given is null
            ? Random.Shared.Next()
            : int.Parse(given, System.Globalization.CultureInfo.InvariantCulture);
        output.WriteLine($"QCOW2FUSE_FUZZ_SEED={seed}");
        return seed;
    }

    private SessionFixture Start(FakeKernel kernel, bool uring)
    {
        SessionFixture session = new(_files, new FuseServerOptions { Workers = Threads, Uring = uring }, kernel);
        Assert.Equal(0, session.Send(
            FuseOpcode.Init, SessionFixture.InitRequest(NoMaxPages), node: 0).Error);
        Assert.True(session.Server.WaitForInit(Patience));
        Assert.Equal(uring, session.Server.UsesUring);
        Assert.Equal(Negotiated, session.Server.Session.MaxWrite);
        return session;
    }

    private static void Run(int seed, Action<Random, ulong> round)
    {
        Task[] tasks = [.. Enumerable.Range(0, Threads).Select(thread => Task.Factory.StartNew(
            () =>
            {
                Random random = new(seed + thread);
                for (int i = 0; i < Rounds; i++)
                    round(random, ((ulong)thread << 32) + 1000 + (ulong)i);
            },
            TaskCreationOptions.LongRunning))];
        try
        {
            Assert.True(Task.WaitAll(tasks, Patience), $"hangs, seed {seed}");
        }
        catch (AggregateException error)
        {
            throw new InvalidOperationException($"seed {seed}", error.InnerException);
        }
    }

    private void ShouldBeSound(SessionFixture session, int errors, int seed)
    {
        Assert.True(session.Kernel.Complaints.Count == 0, $"seed {seed}: {session.Kernel.Complaints.FirstOrDefault()}");
        Assert.InRange(errors, Threads * Rounds / 10, (Threads * Rounds) - 1);
        Assert.False(session.Server.Ended.IsCompleted, $"the server has ended, seed {seed}");
    }

    /// <summary>A request by /dev/fuse: often cut off, or of another length than it says.</summary>
    private static byte[] NextRequest(Random random, ulong unique)
    {
        byte[] request = FakeKernel.BuildRequest(
            (uint)random.Next(0, 60), (ulong)random.Next(0, 4), unique, NextBytes(random));
        if (random.Next(4) == 0)
            request[random.Next(0, 4)] ^= (byte)(1 << random.Next(8));
        if (random.Next(8) == 0)
            request[36] = (byte)random.Next(0, 30);
        return random.Next(16) == 0 ? request[..random.Next(0, request.Length)] : request;
    }

    /// <summary>A request by a ring: the three lengths often contradict each other, or are beyond all bounds.</summary>
    private static FakeRingRequest NextRingRequest(Random random, ulong unique)
    {
        byte[] all = NextBytes(random);
        uint opcode = (uint)random.Next(0, 60);
        int wanted = random.Next(2) == 0 ? FuseOpcodes.ArgumentsSize((FuseOpcode)opcode) : random.Next(0, 129);
        int arguments = Math.Min(wanted, Math.Min(all.Length, 128));
        FakeRingRequest request = FakeRingRequest.Of(
            opcode, (ulong)random.Next(0, 4), unique, all[..arguments], all[arguments..]);
        if (random.Next(4) == 0)
            MemoryMarshal.Write(request.Header, NextLength(random, MemoryMarshal.Read<uint>(request.Header)));
        if (random.Next(8) == 0)
            request.Header[36] = (byte)random.Next(0, 30);
        return random.Next(4) == 0
            ? request with { StatedPayload = NextLength(random, request.StatedPayload) } : request;
    }

    private static uint NextLength(Random random, uint length) => random.Next(4) switch
    {
        0 => 0,
        1 => length ^ (1u << random.Next(32)),
        2 => uint.MaxValue - (uint)random.Next(0, 300),
        _ => (uint)random.Next(0, 300),
    };

    /// <summary>
    /// Up to 200 bytes, seldom up to the size of the buffers; mostly zeroes, so that numbers are often small enough to
    /// pass the first checks.
    /// </summary>
    private static byte[] NextBytes(Random random)
    {
        byte[] bytes = new byte[random.Next(100) == 0 ? random.Next(0, 1 << 20) : random.Next(0, 200)];
        Span<byte> start = bytes.AsSpan(0, Math.Min(bytes.Length, 200));
        random.NextBytes(start);
        for (int i = 0; i < start.Length; i++)
        {
            if (random.Next(4) != 0)
                start[i] = 0;
        }

        return bytes;
    }
}
