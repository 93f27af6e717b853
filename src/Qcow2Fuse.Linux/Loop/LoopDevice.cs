// SPDX-License-Identifier: MIT
using System.Globalization;
using System.Runtime.InteropServices;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Linux.Loop;

/// <summary>How a loop device is set up.</summary>
/// <param name="ReadOnly">The device refuses writes.</param>
/// <param name="AutoClear">The device lets go of its file when its last user closes it.</param>
/// <param name="SectorSize">Bytes of its sectors, 512 or 4096.</param>
public readonly record struct LoopSettings(bool ReadOnly, bool AutoClear, int SectorSize);

/// <summary>
/// Loop devices, block devices whose content is a file (loop(4)), by their ioctls. Results are 0 or more, or negated
/// error numbers. Needs Linux 5.8 and the right to open /dev/loop-control.
/// </summary>
public static unsafe partial class LoopDevice
{
    private const string ControlPath = "/dev/loop-control";
    private const int Attempts = 64;

    // include/uapi/linux/loop.h
    private const nuint GetFree = 0x4C82;
    private const nuint Configure = 0x4C0A;
    private const nuint ClearDescriptor = 0x4C01;
    private const uint ReadOnlyFlag = 1;
    private const uint AutoClearFlag = 4;
    private const uint PartitionScanFlag = 8;
    private const uint DirectIOFlag = 16;

    /// <summary>The device file of a loop device's number.</summary>
    public static string PathOf(int number) => string.Create(CultureInfo.InvariantCulture, $"/dev/loop{number}");

    /// <summary>The number in "/dev/loopN"; −1 for any other path.</summary>
    public static int NumberOf(string path)
    {
        const string Prefix = "/dev/loop";
        return path.StartsWith(Prefix, StringComparison.Ordinal)
            && int.TryParse(
                path.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int number)
            ? number
            : -1;
    }

    /// <summary>
    /// Makes a free loop device show a whole file, with direct I/O (requests go past the page cache to the file).
    /// </summary>
    /// <param name="file">The file; named in lo_file_name, at most 63 bytes of it.</param>
    /// <param name="settings">How it is set up.</param>
    /// <param name="number">The device's number.</param>
    /// <returns>A descriptor of the device, closed on exec, to be closed by the caller.</returns>
    public static int Attach(string file, LoopSettings settings, out int number)
    {
        number = -1;
        int access = settings.ReadOnly ? OpenFlags.ReadOnly : OpenFlags.ReadWrite;
        int backing = LinuxFile.Open(file, access | OpenFlags.Direct | OpenFlags.CloseOnExec);
        if (backing < 0)
            return backing;
        int control = LinuxFile.Open(ControlPath, OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        try
        {
            // Between the question and the answer another process may take the device.
            for (int attempt = 0; control >= 0 && attempt < Attempts; attempt++)
            {
                number = Control(control, GetFree, null);
                if (number < 0)
                    return number;
                int device = TryConfigure(number, backing, file, settings);
                if (device != -Errno.EBUSY)
                    return device;
            }

            return control < 0 ? control : -Errno.EBUSY;
        }
        finally
        {
            _ = LinuxFile.Close(backing);
            if (control >= 0)
                _ = LinuxFile.Close(control);
        }
    }

    /// <summary>
    /// Opens a device for nobody else's use: −EBUSY where it is mounted, swapped on or part of another device.
    /// </summary>
    public static int OpenExclusively(int number) =>
        LinuxFile.Open(PathOf(number), OpenFlags.ReadOnly | OpenFlags.Exclusive | OpenFlags.CloseOnExec);

    /// <summary>
    /// Makes a device let go of its file; where others have it open, it does so when the last of them closes it.
    /// </summary>
    /// <param name="device">A descriptor of the device.</param>
    public static int Clear(int device) => Control(device, ClearDescriptor, null);

    private static int TryConfigure(int number, int backing, string file, LoopSettings settings)
    {
        int device = LinuxFile.Open(PathOf(number), OpenFlags.ReadWrite | OpenFlags.CloseOnExec);
        if (device < 0)
            return device;
        LoopConfiguration configuration = new()
        {
            Descriptor = (uint)backing,
            BlockSize = (uint)settings.SectorSize,
        };
        configuration.Flags = PartitionScanFlag | DirectIOFlag
            | (settings.ReadOnly ? ReadOnlyFlag : 0) | (settings.AutoClear ? AutoClearFlag : 0);
        byte[] name = ByteText.Encode(file);
        name.AsSpan(0, Math.Min(name.Length, LoopConfiguration.NameLength - 1))
            .CopyTo(new Span<byte>(configuration.FileName, LoopConfiguration.NameLength));
        int result = Control(device, Configure, &configuration);
        if (result == 0)
            return device;
        _ = LinuxFile.Close(device);
        return result;
    }

    private static int Control(int fd, nuint request, void* argument)
    {
        while (true)
        {
            int result = IoctlNative(fd, request, argument);
            int errno = Marshal.GetLastPInvokeError();
            if (result >= 0)
                return result;
            if (errno != Errno.EINTR)
                return -errno;
        }
    }

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int IoctlNative(int fd, nuint request, void* argument);

    /// <summary>struct loop_config, and in it struct loop_info64.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 304)]
    private struct LoopConfiguration
    {
        public const int NameLength = 64;

        [FieldOffset(0)]
        public uint Descriptor;

        [FieldOffset(4)]
        public uint BlockSize;

        [FieldOffset(60)]
        public uint Flags;

        [FieldOffset(64)]
        public fixed byte FileName[NameLength];
    }
}
