// SPDX-License-Identifier: MIT
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Mounting;

namespace Qcow2Fuse.Control.Messages;

/// <summary>Who is at the other end of a unix socket, as the kernel says (SO_PEERCRED, unix(7)).</summary>
/// <param name="Process">The process that connected, or that listens.</param>
/// <param name="User">Its effective user then.</param>
internal readonly record struct PeerCredentials(int Process, uint User)
{
    // SOL_SOCKET, SO_PEERCRED and struct ucred of Linux.
    private const int SocketLevel = 1;
    private const int Option = 17;
    private const int Size = 12;

    /// <summary>Whether it is root's or this user's.</summary>
    public bool IsRootOrSelf => User == 0 || User == MountCalls.EffectiveUser();

    /// <summary>The peer of a connection; null where the kernel does not tell.</summary>
    public static PeerCredentials? Of(Socket socket)
    {
        Span<byte> credentials = stackalloc byte[Size];
        if (socket.GetRawSocketOption(SocketLevel, Option, credentials) < Size)
            return null;
        return new PeerCredentials(
            MemoryMarshal.Read<int>(credentials), MemoryMarshal.Read<uint>(credentials[sizeof(int)..]));
    }
}
