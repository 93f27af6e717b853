// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Linux;

/// <summary>
/// Descriptors that a caller left open, which hold his locks and keep his file systems busy for as long as anybody has
/// them.
/// </summary>
public static partial class InheritedFiles
{
    private const string Process = "/proc/self";
    private const int FirstOther = 3;
    private const int SyscallCloseRange = 436;
    private const uint CloseOnExecRange = 4;

    /// <summary>
    /// Closes what this process inherited, but for the standard streams and <paramref name="named"/>. What it has
    /// opened itself stays: that has the flag close-on-exec, which nothing inherited can have.
    /// </summary>
    public static void CloseOthers(IReadOnlyCollection<int> named)
    {
        foreach (int descriptor in All())
        {
            if (descriptor >= FirstOther && !named.Contains(descriptor) && LinuxStream.IsInherited(descriptor))
                _ = LinuxFile.Close(descriptor);
        }
    }

    /// <summary>Keeps all descriptors but the standard streams from programs that are started from now on.</summary>
    internal static void KeepFromPrograms()
    {
        if (CloseRangeNative(SyscallCloseRange, FirstOther, uint.MaxValue, CloseOnExecRange) == 0)
            return;

        // Before Linux 5.11.
        foreach (int descriptor in All())
        {
            if (descriptor >= FirstOther)
                _ = LinuxFile.CloseOnExec(descriptor);
        }
    }

    /// <summary>The numbers of the open descriptors; the one that lists them is among them, and gone.</summary>
    private static List<int> All()
    {
        List<int> all = [];
        foreach ((string number, _) in OpenDescriptors.Of(Process))
        {
            if (int.TryParse(number, CultureInfo.InvariantCulture, out int descriptor))
                all.Add(descriptor);
        }

        return all;
    }

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial nint CloseRangeNative(nint number, uint first, uint last, uint flags);
}
