// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Server;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests;

/// <summary>A server on a fake kernel.</summary>
internal sealed class SessionFixture : IDisposable
{
    public const ulong Root = 1;
    public const ulong File = 2;

    public SessionFixture(
        IFuseFileSystem fileSystem, FuseServerOptions? options = null, FakeKernel? kernel = null)
    {
        Kernel = kernel ?? new FakeKernel();
        Server = new FuseServer(Kernel, fileSystem, options ?? new FuseServerOptions { Workers = 4 });
        Server.Start();
    }

    public FakeKernel Kernel { get; }

    public FuseServer Server { get; }

    /// <summary>The kernel's INIT, version 7.45, all features offered unless told otherwise.</summary>
    public static FuseInitIn InitRequest(ulong offered = ulong.MaxValue, uint major = 7, uint minor = 45) => new()
    {
        Major = major,
        Minor = minor,
        MaxReadAhead = 0x20000,
        Flags = (uint)offered,
        Flags2 = (uint)(offered >> 32),
    };

    public static SessionFixture Initialised(IFuseFileSystem fileSystem, FuseServerOptions? options = null)
    {
        SessionFixture fixture = new(fileSystem, options);
        Assert.Equal(0, fixture.Send(FuseOpcode.Init, InitRequest(), node: 0).Error);
        return fixture;
    }

    public FakeReply Send<T>(FuseOpcode opcode, in T arguments, ulong node = File, ReadOnlySpan<byte> payload = default)
        where T : unmanaged =>
        Kernel.Send((uint)opcode, node, arguments, payload);

    public FakeReply Send(FuseOpcode opcode, ReadOnlySpan<byte> body, ulong node = File) =>
        Kernel.Send((uint)opcode, node, body);

    public FakeReply GetAttributes(ulong node = File) => Send(FuseOpcode.GetAttr, default(FuseGetAttrIn), node);

    public void Dispose()
    {
        Server.Dispose();
        Assert.Empty(Kernel.Complaints);
    }
}
