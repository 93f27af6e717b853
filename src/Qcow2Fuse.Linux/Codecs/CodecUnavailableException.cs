// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Codecs;

/// <summary>The library that decompresses clusters of an image is not installed, or is too old.</summary>
public sealed class CodecUnavailableException : Exception
{
    internal CodecUnavailableException(string message, string package, Exception? inner = null)
        : base(message, inner) => Package = package;

    /// <summary>The package of the system that has it.</summary>
    public string Package { get; }
}
