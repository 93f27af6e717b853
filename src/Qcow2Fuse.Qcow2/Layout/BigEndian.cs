// SPDX-License-Identifier: MIT
using System.Buffers.Binary;

namespace Qcow2Fuse.Qcow2.Layout;

/// <summary>Fields at named offsets of an on-disk structure.</summary>
internal static class BigEndian
{
    public static ushort U16(ReadOnlySpan<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt16BigEndian(bytes[offset..]);

    public static uint U32(ReadOnlySpan<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt32BigEndian(bytes[offset..]);

    public static ulong U64(ReadOnlySpan<byte> bytes, int offset) =>
        BinaryPrimitives.ReadUInt64BigEndian(bytes[offset..]);

    public static void U32(Span<byte> bytes, int offset, uint value) =>
        BinaryPrimitives.WriteUInt32BigEndian(bytes[offset..], value);

    public static void U64(Span<byte> bytes, int offset, ulong value) =>
        BinaryPrimitives.WriteUInt64BigEndian(bytes[offset..], value);
}
