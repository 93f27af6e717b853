// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Codecs;

/// <summary>
/// Decompresses raw deflate streams with libdeflate where it is installed, which is much faster than zlib. It
/// knows only streams that end: what it refuses zlib has to judge. For one thread at a time.
/// </summary>
internal sealed unsafe class LibdeflateInflater : CodecContext
{
    private const string Library = "libdeflate.so.0";

    private readonly Functions _functions;

    private LibdeflateInflater(Functions functions, void* decompressor)
        : base(decompressor) => _functions = functions;

    /// <summary>Whether the library is there.</summary>
    public static bool IsAvailable => Functions.Loaded.Value is not null;

    /// <summary>Whether a library of this name is there and has the functions that are needed.</summary>
    public static bool CanLoad(string library) => Functions.Load(library) is not null;

    /// <summary>A decoder; null where the library is not there or has no memory.</summary>
    public static LibdeflateInflater? TryCreate()
    {
        if (Functions.Loaded.Value is not { } functions)
            return null;
        void* decompressor = functions.Allocate();
        return decompressor == null ? null : new LibdeflateInflater(functions, decompressor);
    }

    /// <summary>
    /// True if <paramref name="input"/> begins with a whole stream of exactly as many bytes as
    /// <paramref name="output"/> takes. Its content is undefined otherwise.
    /// </summary>
    public bool TryDecode(ReadOnlySpan<byte> input, Span<byte> output)
    {
        void* decompressor = Context;
        fixed (byte* source = input, destination = output)
        {
            return _functions.Decompress(
                decompressor, source, (nuint)input.Length, destination, (nuint)output.Length, null) == 0;
        }
    }

    /// <inheritdoc/>
    protected override void Free(void* context) => _functions.Free(context);

    private sealed class Functions
    {
        private Functions(CodecLibrary library)
        {
            Allocate = (delegate* unmanaged[Cdecl]<void*>)library.Function("libdeflate_alloc_decompressor");
            Decompress = (delegate* unmanaged[Cdecl]<void*, byte*, nuint, byte*, nuint, nuint*, int>)
                library.Function("libdeflate_deflate_decompress");
            Free = (delegate* unmanaged[Cdecl]<void*, void>)library.Function("libdeflate_free_decompressor");
        }

        public static Lazy<Functions?> Loaded { get; } = new(static () => Load(Library));

        public delegate* unmanaged[Cdecl]<void*> Allocate { get; }

        public delegate* unmanaged[Cdecl]<void*, byte*, nuint, byte*, nuint, nuint*, int> Decompress { get; }

        public delegate* unmanaged[Cdecl]<void*, void> Free { get; }

        public static Functions? Load(string name)
        {
            try
            {
                return new Functions(CodecLibrary.Load(name, "libdeflate0"));
            }
            catch (CodecUnavailableException)
            {
                // It is not needed: zlib does the same.
                return null;
            }
        }
    }
}
