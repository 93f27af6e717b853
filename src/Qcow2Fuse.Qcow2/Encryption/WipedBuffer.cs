// SPDX-License-Identifier: MIT
using System.Security.Cryptography;

namespace Qcow2Fuse.Qcow2;

/// <summary>Bytes that are wiped when they are not needed any more, and never moved: keys and what leads to them.
/// </summary>
internal sealed class WipedBuffer(int length) : IDisposable
{
    private readonly byte[] _bytes = GC.AllocateArray<byte>(length, pinned: true);

    public Span<byte> Span => _bytes;

    public void Dispose() => CryptographicOperations.ZeroMemory(_bytes);
}
