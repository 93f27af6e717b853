// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>Requests no kernel sends: each is answered with an error or dropped, and the session goes on.</summary>
public sealed unsafe class MalformedRequestTests : IDisposable
{
    private const int Capacity = 1 << 20;

    private readonly MemoryFileSystem _files = new(1 << 20);
    private readonly FuseSession _session;
    private readonly FuseSlot _slot;

    public MalformedRequestTests()
    {
        _session = new FuseSession(_files, new FuseServerOptions());
        _slot = new FuseSlot(Capacity, descriptor: 0);
        FuseInitIn init = SessionFixture.InitRequest();
        Assert.Equal(
            0, Dispatch(Request(FuseOpcode.Init, MemoryMarshal.AsBytes(new ReadOnlySpan<FuseInitIn>(in init)))));
    }

    public void Dispose()
    {
        _slot.Dispose();
        _files.Dispose();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(39)]
    public void WithoutAHeaderThereIsNoReply(int length)
    {
        byte[] request = Request(FuseOpcode.GetAttr, new byte[16]);
        request.CopyTo(new Span<byte>(_slot.Request, request.Length));
        Assert.Equal(0, _session.Dispatch(_slot, length));
    }

    [Theory]
    [InlineData(FuseOpcode.GetAttr, 15)]
    [InlineData(FuseOpcode.SetAttr, 87)]
    [InlineData(FuseOpcode.Open, 7)]
    [InlineData(FuseOpcode.Read, 39)]
    [InlineData(FuseOpcode.Write, 39)]
    [InlineData(FuseOpcode.Release, 23)]
    [InlineData(FuseOpcode.Flush, 23)]
    [InlineData(FuseOpcode.Fsync, 15)]
    [InlineData(FuseOpcode.Fallocate, 31)]
    [InlineData(FuseOpcode.Lseek, 23)]
    [InlineData(FuseOpcode.CopyFileRange, 55)]
    [InlineData(FuseOpcode.CopyFileRange64, 55)]
    [InlineData(FuseOpcode.GetXattr, 7)]
    [InlineData(FuseOpcode.ListXattr, 0)]
    [InlineData(FuseOpcode.OpenDir, 7)]
    [InlineData(FuseOpcode.ReadDir, 39)]
    [InlineData(FuseOpcode.ReleaseDir, 23)]
    [InlineData(FuseOpcode.Lookup, 0)]
    internal void TooShortArgumentsAreInvalid(FuseOpcode opcode, int length)
    {
        Assert.Equal(-Errno.EINVAL, Dispatch(Request(opcode, new byte[length])));
        AssertAlive();
    }

    [Fact]
    public void LengthInTheHeaderHasToMatch()
    {
        byte[] request = Request(FuseOpcode.GetAttr, new byte[16]);
        foreach (uint stated in (uint[])[0, 55, 57, uint.MaxValue])
        {
            MemoryMarshal.Write(request, stated);
            Assert.Equal(-Errno.EINVAL, Dispatch(request));
        }
    }

    [Fact]
    public void ExtensionsAreNoPayload()
    {
        FuseWriteIn write = new() { Size = 16 };
        byte[] request = Request(
            FuseOpcode.Write,
            FakeKernel.Join(MemoryMarshal.AsBytes(new ReadOnlySpan<FuseWriteIn>(in write)), new byte[24]));
        Assert.Equal(-Errno.EINVAL, Dispatch(request));
        MemoryMarshal.Write(request.AsSpan(36), (ushort)1);
        Assert.Equal(0, Dispatch(request));
        MemoryMarshal.Write(request.AsSpan(36), (ushort)100);
        Assert.Equal(-Errno.EINVAL, Dispatch(request));
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(99u)]
    [InlineData(101u)]
    [InlineData(uint.MaxValue)]
    public void WriteHasToBringWhatItPromises(uint promised)
    {
        FuseWriteIn write = new() { Size = promised };
        byte[] body = FakeKernel.Join(MemoryMarshal.AsBytes(new ReadOnlySpan<FuseWriteIn>(in write)), new byte[100]);
        Assert.Equal(-Errno.EINVAL, Dispatch(Request(FuseOpcode.Write, body)));
    }

    [Theory]
    [InlineData(0ul, Capacity + 1u)]
    [InlineData(0ul, uint.MaxValue)]
    [InlineData(ulong.MaxValue, 1u)]
    [InlineData((ulong)long.MaxValue, 4096u)]
    public void ReadHasToFit(ulong offset, uint size)
    {
        FuseReadIn read = new() { Offset = offset, Size = size };
        ReadOnlySpan<byte> body = MemoryMarshal.AsBytes(new ReadOnlySpan<FuseReadIn>(in read));
        Assert.Equal(-Errno.EINVAL, Dispatch(Request(FuseOpcode.Read, body)));
    }

    [Theory]
    [InlineData("")]
    [InlineData("\0")]
    [InlineData("disk.raw")]
    [InlineData("disk.raw\0x\0")]
    [InlineData("a/b\0")]
    public void NamesEndOnceAndHaveNoSlash(string bytes) => Assert.Equal(
        -Errno.EINVAL, Dispatch(Request(FuseOpcode.Lookup, System.Text.Encoding.ASCII.GetBytes(bytes))));

    [Fact]
    public void RandomRequestsNeverEndTheSession()
    {
        // Seeded, so that a failure comes again.
        Random random = new(20);
        int errors = 0;
        for (int round = 0; round < 20_000; round++)
        {
            byte[] request = RandomRequest(random);
            request.CopyTo(new Span<byte>(_slot.Request, request.Length));
            int reply = _session.Dispatch(_slot, request.Length);
            if (reply == 0)
            {
                bool dropped = request.Length < 40
                    || FuseOpcodes.IsUnanswered(MemoryMarshal.Read<FuseOpcode>(request.AsSpan(4)));
                Assert.True(dropped, $"no reply in round {round}");
                continue;
            }

            FuseOutHeader header = *(FuseOutHeader*)_slot.Reply;
            Assert.Equal((uint)reply, header.Length);
            Assert.Equal(MemoryMarshal.Read<ulong>(request.AsSpan(8)), header.Unique);
            Assert.InRange(header.Error, -FuseAbi.MaxErrno, 0);
            Assert.True(header.Error == 0 || reply == FuseAbi.OutHeaderSize);
            errors += header.Error < 0 ? 1 : 0;
        }

        Assert.InRange(errors, 2_000, 19_999);
        AssertAlive();
    }

    private static byte[] RandomRequest(Random random)
    {
        byte[] body = new byte[random.Next(0, 200)];
        random.NextBytes(body);

        // Mostly zeroes, so that numbers are often small enough to pass the first checks.
        for (int i = 0; i < body.Length; i++)
        {
            if (random.Next(4) != 0)
                body[i] = 0;
        }

        byte[] request = FakeKernel.BuildRequest(
            (uint)random.Next(0, 60), (ulong)random.Next(0, 4), (ulong)random.NextInt64(), body);
        if (random.Next(4) == 0)
            request[random.Next(0, 4)] ^= (byte)(1 << random.Next(8));
        if (random.Next(8) == 0)
            request[36] = (byte)random.Next(0, 30);
        return random.Next(16) == 0 ? request[..random.Next(0, request.Length)] : request;
    }

    private static byte[] Request(FuseOpcode opcode, ReadOnlySpan<byte> body) =>
        FakeKernel.BuildRequest((uint)opcode, SessionFixture.File, unique: 2, body);

    private int Dispatch(byte[] request)
    {
        request.CopyTo(new Span<byte>(_slot.Request, request.Length));
        Assert.True(_session.Dispatch(_slot, request.Length) >= FuseAbi.OutHeaderSize);
        return ((FuseOutHeader*)_slot.Reply)->Error;
    }

    private void AssertAlive() => Assert.Equal(0, Dispatch(Request(FuseOpcode.GetAttr, new byte[16])));
}
