// SPDX-License-Identifier: MIT
using System.Text;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Output;

/// <summary>
/// Standard error, written without <see cref="Console"/>: that one hides failures, and a daemon has to know whether
/// anybody still listens.
/// </summary>
internal static class StandardError
{
    /// <summary>Its descriptor.</summary>
    public const int Descriptor = 2;

    /// <summary>
    /// Writes a line, in one piece. It stays one line whatever names are in it; characters that could move the cursor
    /// are escaped. A failure is not reported, as there is nowhere to report it.
    /// </summary>
    public static void WriteLine(string line) =>
        _ = LinuxStream.Write(Descriptor, Encoding.UTF8.GetBytes(Printable.Text(line) + "\n"));
}
