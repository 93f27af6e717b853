// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;

namespace Qcow2Fuse.Output;

/// <summary>
/// A log on standard error: <c>qcow2fuse: message</c> for people, <c>&lt;priority&gt;message</c> for the journal
/// (sd-daemon(3)). Each message is written before the call returns, so the last words of a dying daemon arrive.
/// </summary>
internal sealed class StderrLogger(LogLevel least) : LineLogger(least)
{
    /// <inheritdoc/>
    protected override void Write(LogLevel level, string text) =>
        StandardError.WriteLine(JournalStream.Prefix(level) + text);
}
