// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Errors;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Fuse;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Mounting;

namespace Qcow2Fuse.Fuse.Mounting;

/// <summary>A FUSE mount made by this process.</summary>
/// <remarks>
/// The process that serves a mount must never touch it: with all workers waiting that is a deadlock. Nothing here
/// does after <see cref="Mount"/> has begun.
/// </remarks>
public sealed partial class FuseMount : IDisposable
{
    private const int StackedStaleMounts = 16;
    private const int MovesMax = 64;
    private const int SysAdminCapability = 21;
    private const ulong RemountFlag = 32;

    private readonly int _keepAlive;
    private readonly MountEntry? _entry;

    private int _device;
    private Func<bool>? _isConnected;
    private bool _disposed;
    private bool _isLeft;

    private FuseMount(string path, bool isFile, MountEntry? entry, int device, int keepAlive)
    {
        MountPoint = path;
        IsFile = isFile;
        _device = device;
        _keepAlive = keepAlive;
        _entry = entry;
    }

    /// <summary>
    /// The kernel's number of the session, which is the minor number of the mount's device; −1 where it is not known,
    /// or the session has ended: then it may be another's.
    /// </summary>
    public int Connection => _entry is null || HasEnded ? -1 : _entry.Minor;

    /// <summary>What the kernel's table shows as its source; empty where that is not known.</summary>
    public string Source => _entry?.Source ?? "";

    /// <summary>Where it is mounted: an absolute path without symbolic links.</summary>
    public string MountPoint { get; }

    /// <summary>
    /// Whether the mount point is a regular file, so that the root node has to be one. Only a mount knows: a path
    /// with a dead mount on it does not tell what lies below.
    /// </summary>
    public bool IsFile { get; }

    /// <summary>Whether the mount is still in this process's tree. To be asked while the session lives.</summary>
    public bool IsMounted => Current is not null;

    private bool HasEnded => _isConnected is not null && !_isConnected();

    /// <summary>
    /// The mount where it is now: whoever owns a directory above may have given that another name.
    /// </summary>
    private MountEntry? Current
    {
        get
        {
            if (_entry is null)
                return null;
            MountEntry? found = MountTable.Read().FirstOrDefault(_entry.IsSameMount);

            // Nobody else gets the numbers as long as the session lives: so it is asked after the table was read.
            return HasEnded ? null : found;
        }
    }

    /// <summary>
    /// Mounts. A dead mount of the same type at the same place is unmounted first. Requests wait until a
    /// server serves them through <see cref="OpenTransport()"/>.
    /// </summary>
    /// <remarks>
    /// Whoever may mount does so by mount(2). Others, and who is refused by a user namespace or asks for
    /// auto_unmount, use fusermount3. A mount point /dev/fd/N is a session that somebody else has mounted already
    /// (<see cref="HandedMount"/>).
    /// </remarks>
    /// <exception cref="FuseMountException">It could not be mounted; nothing is left behind.</exception>
    public static FuseMount Mount(MountSpec spec)
    {
        int handed = HandedMount.DescriptorOf(spec.MountPoint);
        if (handed >= 0)
            return TakeOver(spec.MountPoint, handed);
        MountPoint place = Prepare(spec);
        int device = -1;
        int keepAlive = -1;
        if (!spec.AutoUnmount && MayMount())
            device = MountDirectly(spec, place.Path);
        if (device < 0)
            device = Fusermount.Mount(spec, place.Path, out keepAlive);
        bool isFile = (place.Mode & FuseAttributes.KindMask) == FuseAttributes.RegularFile;
        return new FuseMount(place.Path, isFile, HandedMount.FindEntry(device, place.Path), device, keepAlive);
    }

    /// <summary>
    /// Unmounts a mount, whoever serves it. <paramref name="lazy"/> takes it out of the tree at once; it then ends with
    /// its last user. Wherever names on the way lead by now, nothing else is unmounted.
    /// </summary>
    /// <exception cref="FuseMountException">
    /// <see cref="FuseMountError.Busy"/> where somebody uses it, <see cref="FuseMountError.NotMounted"/>, or another
    /// reason.
    /// </exception>
    public static void Unmount(MountEntry mount, bool lazy)
    {
        // fusermount3 looks for itself whether it is this user's and where the name leads.
        int result = MayMount() ? MountRoot.Unmount(mount, lazy) : -Errno.EPERM;
        if (result >= 0)
            return;
        string path = mount.MountPoint;
        if (MountTable.Find(mount) is null)
            throw new FuseMountException(FuseMountError.NotMounted, $"{path}: not mounted");
        switch (-result)
        {
            case Errno.EPERM:
                Fusermount.Unmount(path, lazy);
                break;
            case Errno.EBUSY:
                throw FuseMountErrors.Busy(path);
            case Errno.ESTALE:
                throw new FuseMountException(FuseMountError.System, $"{path}: umount: another mount covers it");
            default:
                throw new FuseMountException(FuseMountError.System, $"{path}: umount: {Errno.Text(-result)}");
        }
    }

    /// <summary>Gives a mount other flags (MS_REMOUNT); all else of it stays as it is.</summary>
    /// <param name="mount">The mount.</param>
    /// <param name="flags">All flags that it is to have.</param>
    /// <exception cref="FuseMountException">The kernel refuses it, or the mount has gone.</exception>
    public static void Remount(MountEntry mount, MountFlags flags)
    {
        int root = MountRoot.Open(mount);
        if (root < 0)
            throw FuseMountErrors.MountCall(mount.MountPoint, -root);
        int result = MountCalls.Mount(
            mount.Source, Mounting.MountPoint.DescriptorLink(root), mount.Type, (ulong)flags | RemountFlag, "");
        FuseDevice.Close(root);
        if (result < 0)
            throw FuseMountErrors.MountCall(mount.MountPoint, -result);
    }

    /// <summary>Says who keeps a mount of any kind from being unmounted.</summary>
    public static FuseMountException Busy(string path) => FuseMountErrors.Busy(path);

    /// <summary>The way to this mount's requests. Once.</summary>
    public DevFuseTransport OpenTransport()
    {
        int device = Interlocked.Exchange(ref _device, -1);
        if (device < 0)
            throw new InvalidOperationException("the session's descriptor has been handed out already");
        DevFuseTransport transport = new(device, isWatched: _keepAlive >= 0);
        _isConnected = () => transport.IsConnected;
        return transport;
    }

    /// <summary>
    /// Unmounts this mount if it is still there; see <see cref="Unmount(MountEntry, bool)"/>. To be called before the
    /// transport is disposed.
    /// </summary>
    public void Unmount(bool lazy)
    {
        for (int attempt = 1; Current is { } current; attempt++)
        {
            try
            {
                Unmount(current, lazy);
                return;
            }
            catch (FuseMountException exception) when (
                exception.Error == FuseMountError.NotMounted && attempt < MovesMax)
            {
                // It has gone, or has been moved since.
            }
        }
    }

    /// <summary>
    /// Raises the read-ahead of buffered readers, which the kernel starts at 128 KiB. To be called after INIT, whose
    /// answer lowers it. False where it is not permitted.
    /// </summary>
    /// <param name="kibibytes">Read-ahead in KiB.</param>
    public bool TryRaiseReadAhead(int kibibytes = 2048)
    {
        if (_entry is null)
            return false;

        try
        {
            File.WriteAllText(
                $"/sys/class/bdi/{_entry.Device}/read_ahead_kb", kibibytes.ToString(CultureInfo.InvariantCulture));
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>
    /// Unmounts if that has not happened yet, so that no mount without a server stays behind. To be called after
    /// the server was disposed.
    /// </summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        try
        {
            // The session has ended: what has its numbers at another place by now is another mount.
            if (!_isLeft && _entry is not null && MountTable.Find(_entry) is not null)
                Unmount(_entry, lazy: true);
        }
        catch (FuseMountException)
        {
            // What remains is a dead mount, which the next Mount at this place takes away.
        }

        int device = Interlocked.Exchange(ref _device, -1);
        if (device >= 0)
            FuseDevice.Close(device);
        if (_keepAlive >= 0)
            FuseDevice.Close(_keepAlive);
    }

    private static FuseMount TakeOver(string path, int handed)
    {
        if (!HandedMount.IsSession(handed))
        {
            throw new FuseMountException(
                FuseMountError.MountPointUnusable, $"{path}: not a descriptor of {FuseDevice.Path}");
        }

        MountEntry? entry = HandedMount.FindEntry(handed, path: null);
        int device = FuseDevice.Duplicate(handed);
        if (device < 0)
            throw FuseMountErrors.Device(-device);
        FuseDevice.Close(handed);

        // The mount does not answer yet; what kind of file it lies on the kernel knows without asking.
        uint mode = 0;
        int target = entry is null ? -1 : MountRoot.Open(entry);
        if (target >= 0)
        {
            _ = MountCalls.ReadKnownMode(target, out mode);
            FuseDevice.Close(target);
        }

        bool isFile = (mode & FuseAttributes.KindMask) == FuseAttributes.RegularFile;
        return new FuseMount(entry?.MountPoint ?? path, isFile, entry, device, keepAlive: -1);
    }

    /// <summary>Clears dead mounts away and checks that the place can be mounted on.</summary>
    private static MountPoint Prepare(MountSpec spec)
    {
        for (int attempt = 0; ; attempt++)
        {
            MountPoint place = Mounting.MountPoint.Inspect(spec.MountPoint, spec.Subtype);
            switch (place.State)
            {
                case MountPointState.Free:
                    return IsMountable(place.Mode)
                        ? place
                        : throw new FuseMountException(
                            FuseMountError.MountPointUnusable, $"{place.Path}: neither a directory nor a regular file");
                case MountPointState.Stale when attempt < StackedStaleMounts:
                    Unmount(place.Entry!, lazy: true);
                    break;
                case MountPointState.Mounted:
                    throw new FuseMountException(
                        FuseMountError.AlreadyMounted,
                        $"{place.Path}: {place.Entry?.Source} is mounted here already",
                        place.Path);
                case MountPointState.Stale:
                case MountPointState.StaleForeign:
                    throw new FuseMountException(
                        FuseMountError.StaleForeignMount,
                        $"{place.Path}: a dead mount of type {place.Entry?.Type} is here",
                        place.Path);
                default:
                    throw FuseMountErrors.MountPoint(spec.MountPoint, place.Errno);
            }
        }
    }

    private static bool IsMountable(uint mode) =>
        (mode & FuseAttributes.KindMask) is FuseAttributes.Directory or FuseAttributes.RegularFile;

    private static bool MayMount()
    {
        const string Field = "CapEff:";
        string? line = File.ReadLines("/proc/self/status").FirstOrDefault(
            line => line.StartsWith(Field, StringComparison.Ordinal));
        return line is not null
            && ulong.TryParse(
                line.AsSpan(Field.Length).Trim(), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong set)
            && (set >> SysAdminCapability & 1) != 0;
    }

    /// <summary>Mounts by mount(2); −1 where a user namespace forbids it but fusermount3 may be tried.</summary>
    private static int MountDirectly(MountSpec spec, string path)
    {
        int target = MountCalls.OpenPath(path);
        if (target < 0)
            throw FuseMountErrors.MountPoint(path, -target);

        // A failed mount uses the descriptor up, so it is opened for this one attempt.
        int device = FuseDevice.Open();
        try
        {
            if (device < 0)
                throw FuseMountErrors.Device(-device);
            int probe = MountCalls.Probe(target, out uint mode, out _);
            if (probe < 0)
                throw FuseMountErrors.MountPoint(path, -probe);

            // By way of the descriptor, so that a path changed meanwhile is not what gets mounted on.
            int result = MountCalls.Mount(
                spec.Source,
                Mounting.MountPoint.DescriptorLink(target),
                "fuse." + spec.Subtype,
                (ulong)spec.Flags,
                KernelOptions(spec, device, mode));
            if (result == 0)
                return device;

            FuseDevice.Close(device);
            if (result == -Errno.EPERM && Fusermount.Find() is not null)
                return -1;
            throw FuseMountErrors.MountCall(path, -result);
        }
        finally
        {
            FuseDevice.Close(target);
        }
    }

    /// <summary>Options of the kernel's own parser; it refuses all that it does not know.</summary>
    private static string KernelOptions(MountSpec spec, int device, uint mode)
    {
        string kind = Convert.ToString(mode & FuseAttributes.KindMask, 8);
        string options = string.Create(
            CultureInfo.InvariantCulture,
            $"fd={device},rootmode={kind},user_id={MountCalls.EffectiveUser()},group_id={MountCalls.EffectiveGroup()}");
        if (spec.AllowOther || spec.DefaultPermissions)
            options += ",default_permissions";
        if (spec.AllowOther)
            options += ",allow_other";
        if (spec.MaxRead > 0)
            options += string.Create(CultureInfo.InvariantCulture, $",max_read={spec.MaxRead}");
        foreach ((string name, string label) in spec.EffectiveSecurityOptions)
            options += $",{name}=\"{label}\"";
        return options;
    }
}
