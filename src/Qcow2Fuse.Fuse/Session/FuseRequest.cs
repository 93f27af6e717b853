// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>A request whose lengths have been checked against its header and its operation.</summary>
internal readonly unsafe ref struct FuseRequest
{
    public FuseRequest(FuseInHeader* header, int argumentsSize, int bodyLength)
    {
        Header = header;
        Arguments = (byte*)header + FuseAbi.InHeaderSize;
        Payload = new ReadOnlySpan<byte>(Arguments + argumentsSize, bodyLength - argumentsSize);
    }

    public FuseInHeader* Header { get; }

    /// <summary>The fixed arguments, as long as <see cref="FuseOpcodes.ArgumentsSize"/> says.</summary>
    public byte* Arguments { get; }

    /// <summary>What follows them: names or data.</summary>
    public ReadOnlySpan<byte> Payload { get; }

    public ulong Node => Header->Node;

    /// <summary>The payload as one name ended by a NUL. 0 or a negated error number.</summary>
    public int TryGetName(out ReadOnlySpan<byte> name)
    {
        int end = Payload.IndexOf((byte)0);
        name = Payload[..Math.Max(end, 0)];
        if (end <= 0 || end != Payload.Length - 1 || name.Contains((byte)'/'))
            return -Errno.EINVAL;
        return end > FuseAbi.MaxName ? -Errno.ENAMETOOLONG : 0;
    }
}
