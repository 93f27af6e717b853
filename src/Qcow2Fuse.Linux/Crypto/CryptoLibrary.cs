// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Codecs;

namespace Qcow2Fuse.Linux.Crypto;

/// <summary>The functions of OpenSSL's libcrypto that are used here, loaded when the first one is needed.</summary>
internal sealed unsafe class CryptoLibrary
{
    private const string Package = "libssl3";

    /// <summary>
    /// OPENSSL_INIT_NO_ATEXIT: threads may still encrypt while the process ends, so nothing is torn down under them.
    /// </summary>
    private const ulong NoAtExit = 0x00080000;

    private static readonly Lazy<CryptoLibrary> Loaded = new(static () => new CryptoLibrary());

    private CryptoLibrary()
    {
        CodecLibrary library = CodecLibrary.Load("libcrypto.so.3", Package);
        var initialise = (delegate* unmanaged[Cdecl]<ulong, void*, int>)library.Function("OPENSSL_init_crypto");
        if (initialise(NoAtExit, null) != 1)
            throw new CodecUnavailableException("libcrypto.so.3 cannot be initialised", Package);
        DigestByName = (delegate* unmanaged[Cdecl]<byte*, void*>)library.Function("EVP_get_digestbyname");
        DigestSize = (delegate* unmanaged[Cdecl]<void*, int>)library.Function("EVP_MD_get_size");
        Digest = (delegate* unmanaged[Cdecl]<byte*, nuint, byte*, uint*, void*, void*, int>)
            library.Function("EVP_Digest");
        Pbkdf2 = (delegate* unmanaged[Cdecl]<byte*, int, byte*, int, int, void*, int, byte*, int>)
            library.Function("PKCS5_PBKDF2_HMAC");
        RandomBytes = (delegate* unmanaged[Cdecl]<byte*, int, int>)library.Function("RAND_bytes");
        CipherByName = (delegate* unmanaged[Cdecl]<byte*, void*>)library.Function("EVP_get_cipherbyname");
        NewContext = (delegate* unmanaged[Cdecl]<void*>)library.Function("EVP_CIPHER_CTX_new");
        FreeContext = (delegate* unmanaged[Cdecl]<void*, void>)library.Function("EVP_CIPHER_CTX_free");
        SetPadding = (delegate* unmanaged[Cdecl]<void*, int, int>)library.Function("EVP_CIPHER_CTX_set_padding");
        Init = (delegate* unmanaged[Cdecl]<void*, void*, void*, byte*, byte*, int, int>)
            library.Function("EVP_CipherInit_ex");
        Update = (delegate* unmanaged[Cdecl]<void*, byte*, int*, byte*, int, int>)
            library.Function("EVP_CipherUpdate");
    }

    /// <summary>The library.</summary>
    /// <exception cref="CodecUnavailableException">It is not installed.</exception>
    public static CryptoLibrary Instance => Loaded.Value;

    public delegate* unmanaged[Cdecl]<byte*, void*> DigestByName { get; }

    public delegate* unmanaged[Cdecl]<void*, int> DigestSize { get; }

    public delegate* unmanaged[Cdecl]<byte*, nuint, byte*, uint*, void*, void*, int> Digest { get; }

    public delegate* unmanaged[Cdecl]<byte*, int, byte*, int, int, void*, int, byte*, int> Pbkdf2 { get; }

    public delegate* unmanaged[Cdecl]<byte*, int, int> RandomBytes { get; }

    public delegate* unmanaged[Cdecl]<byte*, void*> CipherByName { get; }

    public delegate* unmanaged[Cdecl]<void*> NewContext { get; }

    public delegate* unmanaged[Cdecl]<void*, void> FreeContext { get; }

    public delegate* unmanaged[Cdecl]<void*, int, int> SetPadding { get; }

    public delegate* unmanaged[Cdecl]<void*, void*, void*, byte*, byte*, int, int> Init { get; }

    public delegate* unmanaged[Cdecl]<void*, byte*, int*, byte*, int, int> Update { get; }
}
