// SPDX-License-Identifier: MIT
using System.IO.Compression;
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Testing.Oracle;

/// <summary>
/// Unpacks compressed clusters. What follows the compressed stream is ignored, because its length is only known to a
/// multiple of 512 bytes.
/// </summary>
internal static unsafe partial class PlainDecompressor
{
    private const string Library = "libzstd.so.1";

    /// <summary>A raw deflate stream that yields at least <paramref name="size"/> bytes.</summary>
    public static byte[] Inflate(byte[] packed, int size)
    {
        byte[] plain = new byte[size];
        using DeflateStream stream = new(new MemoryStream(packed), CompressionMode.Decompress);
        try
        {
            stream.ReadExactly(plain);
        }
        catch (Exception failure) when (failure is InvalidDataException or EndOfStreamException)
        {
            throw new PlainReaderException($"compressed cluster: {failure.Message}");
        }

        return plain;
    }

    /// <summary>One or more zstd frames that yield <paramref name="size"/> bytes together.</summary>
    public static byte[] Zstd(byte[] packed, int size)
    {
        byte[] plain = new byte[size];
        nint stream = CreateStream();
        try
        {
            fixed (byte* source = packed, target = plain)
            {
                Buffer input = new(source, packed.Length), output = new(target, size);
                while (output.Position < output.Size)
                {
                    nuint before = input.Position + output.Position;
                    nuint result = DecompressStream(stream, &output, &input);
                    if (IsError(result) != 0 || input.Position + output.Position == before)
                        throw new PlainReaderException("compressed cluster: invalid zstd data");
                }
            }
        }
        finally
        {
            _ = FreeStream(stream);
        }

        return plain;
    }

    [LibraryImport(Library, EntryPoint = "ZSTD_createDStream")]
    private static partial nint CreateStream();

    [LibraryImport(Library, EntryPoint = "ZSTD_freeDStream")]
    private static partial nuint FreeStream(nint stream);

    [LibraryImport(Library, EntryPoint = "ZSTD_decompressStream")]
    private static partial nuint DecompressStream(nint stream, Buffer* output, Buffer* input);

    [LibraryImport(Library, EntryPoint = "ZSTD_isError")]
    private static partial uint IsError(nuint code);

    /// <summary>ZSTD_inBuffer and ZSTD_outBuffer of zstd.h.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Buffer(byte* bytes, int size)
    {
        public byte* Bytes = bytes;
        public nuint Size = (nuint)size;
        public nuint Position;
    }
}
