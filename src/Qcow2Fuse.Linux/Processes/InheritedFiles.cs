// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Processes;

/// <summary>
/// Descriptors that a caller left open, which hold his locks and keep his file systems busy for as long as anybody has
/// them.
/// </summary>
public static class InheritedFiles
{
    private const string Process = "/proc/self";
    private const int FirstOther = 3;

    /// <summary>
    /// Closes what this process inherited, but for the standard streams and <paramref name="named"/>. What it has
    /// opened itself stays: that has the flag close-on-exec, which nothing inherited can have.
    /// </summary>
    public static void CloseOthers(IReadOnlyCollection<int> named)
    {
        foreach (int descriptor in All().Where(descriptor => !named.Contains(descriptor)))
            _ = LinuxFile.Close(descriptor);
    }

    /// <summary>
    /// Their numbers, standard streams left out: what is open and would pass on to a program that is started.
    /// </summary>
    internal static List<int> All()
    {
        List<int> all = [];
        foreach ((string number, _) in OpenDescriptors.Of(Process))
        {
            if (int.TryParse(number, CultureInfo.InvariantCulture, out int descriptor)
                && descriptor >= FirstOther && LinuxStream.IsInherited(descriptor))
            {
                all.Add(descriptor);
            }
        }

        return all;
    }
}
