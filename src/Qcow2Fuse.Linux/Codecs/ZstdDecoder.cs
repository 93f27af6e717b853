// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Codecs;

/// <summary>
/// Decompresses Zstandard frames with libzstd. One context, reset for every call; for one thread at a time.
/// </summary>
/// <remarks>Frames that ask for a window above 8 MiB are damaged: no cluster is larger than 2 MiB.</remarks>
internal sealed unsafe class ZstdDecoder() : CodecContext(Create())
{
    private const int WindowLogMaxParameter = 100;
    private const int WindowLogMax = 23;
    private const int ResetSessionOnly = 1;

    private static void* Create()
    {
        Functions functions = Functions.Instance;
        void* context = functions.Create();
        if (context == null)
            throw new InsufficientMemoryException("ZSTD_createDCtx of libzstd failed");
        nuint result = functions.SetParameter(context, WindowLogMaxParameter, WindowLogMax);
        if (functions.IsError(result) != 0)
            throw new InvalidOperationException("libzstd refuses a window limit of 8 MiB");
        return context;
    }

    /// <summary>See <see cref="ClusterCodecs.TryDecompress"/>.</summary>
    public bool TryDecode(ReadOnlySpan<byte> input, Span<byte> output)
    {
        void* context = Context;
        Functions functions = Functions.Instance;
        _ = functions.Reset(context, ResetSessionOnly);
        fixed (byte* source = input, destination = output)
        {
            Buffer from = new() { Start = source, Size = (nuint)input.Length };
            Buffer to = new() { Start = destination, Size = (nuint)output.Length };

            // A cluster may consist of several frames, and its last frame must end with it: 0 says that it has.
            nuint result = 1;
            while (to.Position < to.Size || result != 0)
            {
                nuint consumed = from.Position;
                nuint produced = to.Position;
                result = functions.Decompress(context, &to, &from);
                if (functions.IsError(result) != 0)
                    return false;
                bool moved = from.Position != consumed || to.Position != produced;
                if (!moved && (to.Position < to.Size || result != 0))
                    return false;
            }

            return true;
        }
    }

    /// <inheritdoc/>
    protected override void Free(void* context) => _ = Functions.Instance.Free(context);

    /// <summary>ZSTD_inBuffer and ZSTD_outBuffer of zstd.h, which have the same layout.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Buffer
    {
        public void* Start;
        public nuint Size;
        public nuint Position;
    }

    private sealed class Functions
    {
        private static readonly Lazy<Functions> Loaded = new(static () => new Functions());

        private Functions()
        {
            CodecLibrary library = CodecLibrary.Load("libzstd.so.1", "libzstd1");
            Create = (delegate* unmanaged[Cdecl]<void*>)library.Function("ZSTD_createDCtx");
            Free = (delegate* unmanaged[Cdecl]<void*, nuint>)library.Function("ZSTD_freeDCtx");
            Reset = (delegate* unmanaged[Cdecl]<void*, int, nuint>)library.Function("ZSTD_DCtx_reset");
            SetParameter =
                (delegate* unmanaged[Cdecl]<void*, int, int, nuint>)library.Function("ZSTD_DCtx_setParameter");
            Decompress = (delegate* unmanaged[Cdecl]<void*, Buffer*, Buffer*, nuint>)
                library.Function("ZSTD_decompressStream");
            IsError = (delegate* unmanaged[Cdecl]<nuint, uint>)library.Function("ZSTD_isError");
        }

        public static Functions Instance => Loaded.Value;

        public delegate* unmanaged[Cdecl]<void*> Create { get; }

        public delegate* unmanaged[Cdecl]<void*, nuint> Free { get; }

        public delegate* unmanaged[Cdecl]<void*, int, nuint> Reset { get; }

        public delegate* unmanaged[Cdecl]<void*, int, int, nuint> SetParameter { get; }

        public delegate* unmanaged[Cdecl]<void*, Buffer*, Buffer*, nuint> Decompress { get; }

        public delegate* unmanaged[Cdecl]<nuint, uint> IsError { get; }
    }
}
