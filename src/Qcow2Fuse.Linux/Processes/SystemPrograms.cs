// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// Programs of the system, by absolute paths from a fixed list of directories: neither PATH nor the current directory
/// says what root executes.
/// </summary>
public static class SystemPrograms
{
    /// <summary>The directories in their order, as the value of a variable PATH.</summary>
    public const string SearchPath = "/usr/sbin:/usr/bin:/sbin:/bin";

    /// <summary>The absolute path of a program; null where it is not installed.</summary>
    /// <param name="name">Its name, without a slash.</param>
    public static string? Find(string name) => SearchPath.Split(':')
        .Select(directory => Path.Combine(directory, name)).FirstOrDefault(File.Exists);
}
