// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Codecs;

/// <summary>struct z_stream_s of zlib.h on 64-bit Linux; fields that nobody here uses are left out.</summary>
[StructLayout(LayoutKind.Explicit, Size = 112)]
internal unsafe struct ZStream
{
    [FieldOffset(0)]
    public byte* NextIn;

    [FieldOffset(8)]
    public uint AvailableIn;

    [FieldOffset(24)]
    public byte* NextOut;

    [FieldOffset(32)]
    public uint AvailableOut;
}
