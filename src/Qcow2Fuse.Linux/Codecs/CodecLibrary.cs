// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux.Codecs;

/// <summary>A shared library loaded by name, and its functions; it stays loaded for the life of the process.</summary>
internal sealed class CodecLibrary
{
    private readonly nint _handle;
    private readonly string _name;
    private readonly string _package;

    private CodecLibrary(nint handle, string name, string package)
    {
        _handle = handle;
        _name = name;
        _package = package;
    }

    /// <summary>Loads the library <paramref name="name"/>, which Debian has in <paramref name="package"/>.</summary>
    public static CodecLibrary Load(string name, string package)
    {
        if (NativeLibrary.TryLoad(name, out nint handle))
            return new CodecLibrary(handle, name, package);
        throw new CodecUnavailableException($"{name} cannot be loaded", package);
    }

    /// <summary>The address of the function <paramref name="symbol"/>.</summary>
    public nint Function(string symbol)
    {
        if (NativeLibrary.TryGetExport(_handle, symbol, out nint address))
            return address;
        throw new CodecUnavailableException($"{_name} has no function {symbol}", _package);
    }
}
