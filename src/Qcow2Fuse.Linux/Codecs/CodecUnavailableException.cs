// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux;

/// <summary>The library that decompresses clusters of an image is not installed, or is too old.</summary>
public sealed class CodecUnavailableException : Exception
{
    internal CodecUnavailableException(string message, string package, Exception? inner = null)
        : base(message, inner) => Hint = $"apt install {package}";

    /// <summary>What the user can do about it, one line without "hint:".</summary>
    public string Hint { get; }
}
