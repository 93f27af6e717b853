// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>INIT: versions, features and sizes.</summary>
public sealed class NegotiationTests : IDisposable
{
    private const uint MaxPagesBit = 1u << 22;
    private const uint InitExtBit = 1u << 30;

    private readonly MemoryFileSystem _files = new(1 << 20);

    public void Dispose() => _files.Dispose();

    [Fact]
    public void AsksForItsFeaturesAndNoOthers()
    {
        using SessionFixture fixture = new(_files);
        FuseInitOut reply = fixture.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0).As<FuseInitOut>();

        Assert.Equal(7u, reply.Major);
        Assert.Equal(45u, reply.Minor);
        uint expected =
            1u << 0 | 1u << 3 | 1u << 5 | 1u << 15 | 1u << 18 | MaxPagesBit | 1u << 25 | 1u << 28 | InitExtBit;
        Assert.Equal(expected, reply.Flags);
        Assert.Equal(1u << 4 | 1u << 7, reply.Flags2);
        Assert.Equal(1u << 20, reply.MaxWrite);
        Assert.Equal(256, reply.MaxPages);
        Assert.Equal(64, reply.MaxBackground);
        Assert.Equal(48, reply.CongestionThreshold);
        Assert.Equal(0x20000u, reply.MaxReadAhead);
        Assert.Equal(1u, reply.TimeGranularity);
        Assert.True(fixture.Server.WaitForInit(Eventually.Patience));
        Assert.Equal(45, fixture.Server.Session.ProtocolMinor);
    }

    [Fact]
    public void TakesOnlyWhatIsOffered()
    {
        using SessionFixture fixture = new(_files);
        FuseInitOut reply = fixture
            .Send(FuseOpcode.Init, SessionFixture.InitRequest(offered: 1u << 5), node: 0).As<FuseInitOut>();

        Assert.Equal(1u << 5, reply.Flags);
        Assert.Equal(0u, reply.Flags2);
        Assert.Equal(128u * 1024, reply.MaxWrite);
        Assert.Equal(128 * 1024, fixture.Server.Session.MaxWrite);
    }

    [Fact]
    public void IgnoresTheSecondWordWithoutInitExt()
    {
        using SessionFixture fixture = new(_files);
        ulong offered = ulong.MaxValue & ~(ulong)InitExtBit;
        FuseInitOut reply = fixture
            .Send(FuseOpcode.Init, SessionFixture.InitRequest(offered), node: 0).As<FuseInitOut>();
        Assert.Equal(0u, reply.Flags2);
    }

    /// <summary>What the kernel collected would be lost with the server, and hidden from other files.</summary>
    [Fact]
    public void NeverLetsTheKernelCollectWrites()
    {
        using SessionFixture fixture = new(_files);
        FuseInitOut reply = fixture.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0).As<FuseInitOut>();
        Assert.Equal(1u << 3, reply.Flags & (1u << 16 | 1u << 3));
    }

    [Fact]
    public void TakesTheShortInitOfOldKernels()
    {
        using SessionFixture fixture = new(_files);
        FuseInitIn init = SessionFixture.InitRequest(offered: 1u << 5 | MaxPagesBit, minor: 31);
        byte[] body = MemoryMarshal.AsBytes(new ReadOnlySpan<FuseInitIn>(in init))[..16].ToArray();
        FuseInitOut reply = fixture.Send(FuseOpcode.Init, body, node: 0).As<FuseInitOut>();

        Assert.Equal(1u << 5 | MaxPagesBit, reply.Flags);
        Assert.Equal(31, fixture.Server.Session.ProtocolMinor);
    }

    [Fact]
    public void RefusesKernelsThatAreTooOld()
    {
        using SessionFixture fixture = new(_files);
        FakeReply reply = fixture.Send(FuseOpcode.Init, SessionFixture.InitRequest(minor: 30), node: 0);
        Assert.Equal(-Errno.EPROTO, reply.Error);
        Assert.Equal(-Errno.EPROTO, fixture.Send(
            FuseOpcode.Init, SessionFixture.InitRequest(major: 6), node: 0).Error);
        Assert.False(fixture.Server.Session.IsInitialised);
    }

    [Fact]
    public void NewerMajorVersionIsToldOursAndAsksAgain()
    {
        using SessionFixture fixture = new(_files);
        FuseInitOut first = fixture
            .Send(FuseOpcode.Init, SessionFixture.InitRequest(major: 8, minor: 0), node: 0).As<FuseInitOut>();
        Assert.Equal(7u, first.Major);
        Assert.False(fixture.Server.Session.IsInitialised);

        Assert.Equal(0, fixture.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0).Error);
        Assert.True(fixture.Server.Session.IsInitialised);
    }

    [Fact]
    public void InitComesFirstAndOnce()
    {
        using SessionFixture fixture = new(_files);
        Assert.Equal(-Errno.EIO, fixture.GetAttributes().Error);
        Assert.Equal(0, fixture.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0).Error);
        Assert.Equal(-Errno.EIO, fixture.Send(FuseOpcode.Init, SessionFixture.InitRequest(), node: 0).Error);
        Assert.Equal(0, fixture.GetAttributes().Error);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(4095)]
    [InlineData((1 << 20) + 4096)]
    public void RefusesSizesTheProtocolHasNot(int maxWrite) =>
        Assert.Throws<ArgumentException>(
            () => new FuseSession(_files, new FuseServerOptions { MaxWrite = maxWrite }));
}
