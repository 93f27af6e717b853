// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Codecs;

/// <summary>
/// Compresses to one Zstandard frame with libzstd at its default level. One context, reset for every call; for one
/// thread at a time.
/// </summary>
internal sealed unsafe class ZstdEncoder() : CodecContext(Create())
{
    private const int ResetSessionOnly = 1;

    private static void* Create()
    {
        void* context = Functions.Instance.Create();
        if (context == null)
            throw new InsufficientMemoryException("ZSTD_createCCtx of libzstd failed");
        return context;
    }

    /// <summary>See <see cref="ClusterCodecs.TryCompress"/>.</summary>
    public bool TryEncode(ReadOnlySpan<byte> source, Span<byte> destination, out int length)
    {
        void* context = Context;
        Functions functions = Functions.Instance;
        _ = functions.Reset(context, ResetSessionOnly);
        fixed (byte* input = source, output = destination)
        {
            // The only error there can be with valid arguments and enough memory is a destination that is too small.
            nuint result = functions.Compress(
                context, output, (nuint)destination.Length, input, (nuint)source.Length);
            bool failed = functions.IsError(result) != 0;
            length = failed ? 0 : (int)result;
            return !failed;
        }
    }

    /// <inheritdoc/>
    protected override void Free(void* context) => _ = Functions.Instance.Free(context);

    private sealed class Functions
    {
        private static readonly Lazy<Functions> Loaded = new(static () => new Functions());

        private Functions()
        {
            CodecLibrary library = CodecLibrary.Load("libzstd.so.1", "libzstd1");
            Create = (delegate* unmanaged[Cdecl]<void*>)library.Function("ZSTD_createCCtx");
            Free = (delegate* unmanaged[Cdecl]<void*, nuint>)library.Function("ZSTD_freeCCtx");
            Reset = (delegate* unmanaged[Cdecl]<void*, int, nuint>)library.Function("ZSTD_CCtx_reset");
            Compress = (delegate* unmanaged[Cdecl]<void*, void*, nuint, void*, nuint, nuint>)
                library.Function("ZSTD_compress2");
            IsError = (delegate* unmanaged[Cdecl]<nuint, uint>)library.Function("ZSTD_isError");
        }

        public static Functions Instance => Loaded.Value;

        public delegate* unmanaged[Cdecl]<void*> Create { get; }

        public delegate* unmanaged[Cdecl]<void*, nuint> Free { get; }

        public delegate* unmanaged[Cdecl]<void*, int, nuint> Reset { get; }

        public delegate* unmanaged[Cdecl]<void*, void*, nuint, void*, nuint, nuint> Compress { get; }

        public delegate* unmanaged[Cdecl]<nuint, uint> IsError { get; }
    }
}
