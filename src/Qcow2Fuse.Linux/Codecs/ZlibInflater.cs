// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Codecs;

/// <summary>
/// Decompresses raw deflate streams with zlib. One stream state, reset for every call; for one thread at a time.
/// </summary>
/// <remarks>
/// The window is 32 KiB although writers of qcow2 use 4 KiB, because a decoder with the larger window takes both.
/// </remarks>
internal sealed unsafe class ZlibInflater() : CodecContext(Create())
{
    private const int RawWindowBits = -15;
    private const int Finish = 4;
    private const int StreamEnd = 1;
    private const int BufferError = -5;

    private static void* Create()
    {
        Functions functions = Functions.Instance;
        ZStream* stream = (ZStream*)NativeMemory.AllocZeroed((nuint)sizeof(ZStream));
        fixed (byte* version = "1.2.11\0"u8)
        {
            // Only the first digit of the version is compared; with a valid argument all else is lack of memory.
            int result = functions.Init(stream, RawWindowBits, version, sizeof(ZStream));
            if (result != 0)
            {
                NativeMemory.Free(stream);
                throw new InsufficientMemoryException($"inflateInit2 of zlib failed with {result}");
            }
        }

        return stream;
    }

    /// <summary>See <see cref="ClusterCodecs.TryDecompress"/>.</summary>
    public bool TryDecode(ReadOnlySpan<byte> input, Span<byte> output)
    {
        ZStream* stream = (ZStream*)Context;
        Functions functions = Functions.Instance;
        if (functions.Reset(stream) != 0)
            return false;
        fixed (byte* source = input, destination = output)
        {
            stream->NextIn = source;
            stream->AvailableIn = (uint)input.Length;
            stream->NextOut = destination;
            stream->AvailableOut = (uint)output.Length;
            int result = functions.Inflate(stream, Finish);

            // A full output with input left over is a "buffer error" to zlib, and the usual case here.
            return stream->AvailableOut == 0 && result is StreamEnd or BufferError;
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
            Init = (delegate* unmanaged[Cdecl]<ZStream*, int, byte*, int, int>)library.Function("inflateInit2_");
            Reset = (delegate* unmanaged[Cdecl]<ZStream*, int>)library.Function("inflateReset");
            Inflate = (delegate* unmanaged[Cdecl]<ZStream*, int, int>)library.Function("inflate");
            End = (delegate* unmanaged[Cdecl]<ZStream*, int>)library.Function("inflateEnd");
        }

        public static Functions Instance => Loaded.Value;

        public delegate* unmanaged[Cdecl]<ZStream*, int, byte*, int, int> Init { get; }

        public delegate* unmanaged[Cdecl]<ZStream*, int> Reset { get; }

        public delegate* unmanaged[Cdecl]<ZStream*, int, int> Inflate { get; }

        public delegate* unmanaged[Cdecl]<ZStream*, int> End { get; }
    }
}
