// SPDX-License-Identifier: MIT
using System.Security.Cryptography;
using System.Text;

namespace Qcow2Fuse.Linux.Crypto;

/// <summary>An EVP context of libcrypto with its key set, for one direction; for one thread at a time.</summary>
internal sealed unsafe class CipherContext : IDisposable
{
    private readonly CryptoLibrary _library = CryptoLibrary.Instance;
    private void* _context;

    /// <param name="name">libcrypto's name of the cipher: <c>aes-256-xts</c>.</param>
    /// <param name="key">The key, of the cipher's length.</param>
    /// <param name="encrypts">Encrypts, or decrypts.</param>
    public CipherContext(string name, ReadOnlySpan<byte> key, bool encrypts)
    {
        _context = _library.NewContext();
        if (_context == null)
            throw new InsufficientMemoryException("EVP_CIPHER_CTX_new of libcrypto failed");
        fixed (byte* text = Encoding.ASCII.GetBytes(name + "\0"), keyBytes = key)
        {
            void* cipher = _library.CipherByName(text);
            bool ready = cipher != null
                && _library.Init(_context, cipher, null, keyBytes, null, encrypts ? 1 : 0) == 1
                && _library.SetPadding(_context, 0) == 1;
            if (ready)
                return;
        }

        Dispose();
        throw new CryptographicException($"libcrypto refuses the key for {name}");
    }

    ~CipherContext() => Free();

    /// <summary>
    /// Encrypts or decrypts <paramref name="length"/> bytes, whole blocks, beginning with <paramref name="iv"/> (null
    /// for a mode without one). Source and destination may be the same.
    /// </summary>
    public void Transform(byte* iv, byte* source, byte* destination, int length)
    {
        ObjectDisposedException.ThrowIf(_context == null, this);
        int written;
        if ((iv != null && _library.Init(_context, null, null, null, iv, -1) != 1)
            || _library.Update(_context, destination, &written, source, length) != 1
            || written != length)
            throw new CryptographicException("libcrypto failed to encrypt or decrypt");
    }

    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    /// <summary>libcrypto wipes the key.</summary>
    private void Free()
    {
        if (_context != null)
            _library.FreeContext(_context);
        _context = null;
    }
}
