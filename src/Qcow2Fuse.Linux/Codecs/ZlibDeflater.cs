// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Codecs;

/// <summary>
/// Compresses to raw deflate streams with zlib. One stream state, reset for every call; for one thread at a time.
/// </summary>
/// <remarks>
/// The window is 4 KiB, because readers of qcow2 need not look back further (specification section "Compressed
/// Clusters").
/// </remarks>
internal sealed unsafe class ZlibDeflater() : CodecContext(Create())
{
    private const int DefaultLevel = -1;
    private const int DeflatedMethod = 8;
    private const int RawWindowBits = -12;

    /// <summary>
    /// The hash table is twice as large with 9, and is cleared for every cluster; with this window the result is not a
    /// thousandth smaller.
    /// </summary>
    private const int MemoryLevel = 8;

    private const int DefaultStrategy = 0;
    private const int Finish = 4;
    private const int StreamEnd = 1;

    private static void* Create()
    {
        Functions functions = Functions.Instance;
        ZStream* stream = (ZStream*)NativeMemory.AllocZeroed((nuint)sizeof(ZStream));
        fixed (byte* version = "1.2.11\0"u8)
        {
            int result = functions.Init(
                stream, DefaultLevel, DeflatedMethod, RawWindowBits, MemoryLevel, DefaultStrategy, version,
                sizeof(ZStream));
            if (result != 0)
            {
                NativeMemory.Free(stream);
                throw new InsufficientMemoryException($"deflateInit2 of zlib failed with {result}");
            }
        }

        return stream;
    }

    /// <summary>See <see cref="ClusterCodecs.TryCompress"/>.</summary>
    public bool TryEncode(ReadOnlySpan<byte> source, Span<byte> destination, out int length)
    {
        ZStream* stream = (ZStream*)Context;
        Functions functions = Functions.Instance;
        length = 0;
        if (functions.Reset(stream) != 0)
            return false;
        fixed (byte* input = source, output = destination)
        {
            stream->NextIn = input;
            stream->AvailableIn = (uint)source.Length;
            stream->NextOut = output;
            stream->AvailableOut = (uint)destination.Length;
            if (functions.Deflate(stream, Finish) != StreamEnd)
                return false;
            length = destination.Length - (int)stream->AvailableOut;
            return true;
        }
    }

    /// <inheritdoc/>
    protected override void Free(void* context)
    {
        _ = Functions.Instance.End((ZStream*)context);
        NativeMemory.Free(context);
    }

    private sealed class Functions
    {
        private static readonly Lazy<Functions> Loaded = new(static () => new Functions());

        private Functions()
        {
            CodecLibrary library = CodecLibrary.Load("libz.so.1", "zlib1g");
            Init = (delegate* unmanaged[Cdecl]<ZStream*, int, int, int, int, int, byte*, int, int>)
                library.Function("deflateInit2_");
            Reset = (delegate* unmanaged[Cdecl]<ZStream*, int>)library.Function("deflateReset");
            Deflate = (delegate* unmanaged[Cdecl]<ZStream*, int, int>)library.Function("deflate");
            End = (delegate* unmanaged[Cdecl]<ZStream*, int>)library.Function("deflateEnd");
        }

        public static Functions Instance => Loaded.Value;

        public delegate* unmanaged[Cdecl]<ZStream*, int, int, int, int, int, byte*, int, int> Init { get; }

        public delegate* unmanaged[Cdecl]<ZStream*, int> Reset { get; }

        public delegate* unmanaged[Cdecl]<ZStream*, int, int> Deflate { get; }

        public delegate* unmanaged[Cdecl]<ZStream*, int> End { get; }
    }
}
