// SPDX-License-Identifier: MIT
using Microsoft.Extensions.Logging;

namespace Qcow2Fuse.Output;

/// <summary>The priorities of syslog(3), which sd-daemon(3) uses too.</summary>
internal static class SyslogPriority
{
    /// <summary>2 (critical) to 7 (debug).</summary>
    public static int Of(LogLevel level) => level switch
    {
        LogLevel.Critical => 2,
        LogLevel.Error => 3,
        LogLevel.Warning => 4,
        LogLevel.Information => 6,
        _ => 7,
    };
}
