// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Qcow2Fuse.Fuse.Mounting;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Output;

namespace Qcow2Fuse.Mounts;

/// <summary>How a mount has ended, as its daemon has said.</summary>
internal enum LastWordKind
{
    /// <summary>Nothing was said: the daemon serves still, or has died.</summary>
    None,

    /// <summary>Everything that was written is durable.</summary>
    Written,

    /// <summary>Something that was written may be lost.</summary>
    Lost,
}

/// <summary>
/// What a daemon leaves to those who wait for its end: a memory (memfd) that it alone has, from before the mount until
/// it ends. Whoever may look at its descriptors in /proc opens it before he unmounts, and reads it afterwards. It also
/// marks the process as the one that serves the mount, as others may keep descriptors of the session.
/// </summary>
/// <remarks>
/// A file on disk could be left behind, and a socket would have the daemon need memory and threads when there may be
/// none. Little-endian. 0: magic, 8: number of the session or −1, 12: <see cref="LastWordKind"/>, 16: length of a
/// reason in bytes, 20: the reason, UTF-8. The last 8 bytes: a hash of the source of the mount, 0 for none.
/// </remarks>
internal sealed class LastWord : IDisposable
{
    private const string MemoryName = "qcow2fuse-end";
    private const string LinkName = "/memfd:" + MemoryName + " (deleted)";
    private const long Magic = 0x44524F57_46324351; // "QC2FWORD"
    private const int Length = 4096;
    private const int SessionAt = 8;
    private const int KindAt = 12;
    private const int ReasonLengthAt = 16;
    private const int ReasonAt = 20;
    private const int SourceAt = Length - sizeof(long);

    private readonly SharedPage _page;

    private LastWord(SharedPage page) => _page = page;

    /// <summary>Makes the memory.</summary>
    /// <exception cref="CommandException">There is none.</exception>
    public static LastWord Create()
    {
        int result = SharedPage.Create(MemoryName, Length, out SharedPage? page);
        if (page is null)
            throw new CommandException(ExitCode.System, $"memfd_create: {Errno.Text(-result)}");
        page.Int(SessionAt) = -1;
        page.Long(0) = Magic;
        return new LastWord(page);
    }

    /// <summary>Says which session is served, before anybody can see the mount answer.</summary>
    /// <param name="session">The kernel's number of it; −1 where it is not known.</param>
    /// <param name="source">What the mount shows as its source.</param>
    public void Serves(int session, string source)
    {
        _page.Long(SourceAt) = HashOf(source);
        Volatile.Write(ref _page.Int(SessionAt), session);
    }

    /// <summary>Says how it has ended. Who has said that something may be lost stays with it.</summary>
    /// <param name="kind">How.</param>
    /// <param name="reason">Why; cut off where it is too long.</param>
    public void Say(LastWordKind kind, string reason = "")
    {
        if ((LastWordKind)_page.Int(KindAt) == LastWordKind.Lost)
            return;
        Span<byte> text = _page.Bytes[ReasonAt..SourceAt];
        Encoding.UTF8.GetEncoder().Convert(reason, text, flush: false, out _, out int length, out _);
        _page.Int(ReasonLengthAt) = length;
        Volatile.Write(ref _page.Int(KindAt), (int)kind);
    }

    /// <summary>Whether what a descriptor's link in /proc shows is such a memory.</summary>
    public static bool IsLink(string target) => string.Equals(target, LinkName, StringComparison.Ordinal);

    /// <summary>
    /// Opens the memory of another process: a descriptor, or −errno. What only looks like one, such as a file on a
    /// mount that never answers, is not opened.
    /// </summary>
    /// <param name="process">The process.</param>
    /// <param name="number">The number of its descriptor.</param>
    public static int Open(int process, string number)
    {
        int held = LinuxFile.Open(
            string.Create(CultureInfo.InvariantCulture, $"/proc/{process}/fd/{number}"),
            OpenFlags.PathOnly | OpenFlags.CloseOnExec);
        if (held < 0)
            return held;
        using LastWord own = Create();
        bool isMemory = LinuxFile.KnownStatus(held, out FileStatus status) == 0
            && LinuxFile.KnownStatus(own._page.Descriptor, out FileStatus known) == 0 && status.Device == known.Device;
        int descriptor = isMemory
            ? LinuxFile.Reopen(held, OpenFlags.ReadOnly | OpenFlags.CloseOnExec) : -Errno.ESTALE;
        _ = LinuxFile.Close(held);
        return descriptor;
    }

    /// <summary>
    /// Reads the memory of another process, which may be anybody's and hold anything. Nothing said where it makes no
    /// sense.
    /// </summary>
    /// <param name="descriptor">See <see cref="Open"/>.</param>
    /// <param name="session">The session that it says it serves; −1 for none.</param>
    /// <param name="reason">Why, where something may be lost.</param>
    public static LastWordKind Read(int descriptor, out int session, out string reason)
    {
        session = -1;
        reason = "";
        Span<byte> bytes = stackalloc byte[Length];
        if (LinuxFile.Read(descriptor, bytes, 0) < ReasonAt || BinaryPrimitives.ReadInt64LittleEndian(bytes) != Magic)
            return LastWordKind.None;
        session = BinaryPrimitives.ReadInt32LittleEndian(bytes[SessionAt..]);
        int kind = BinaryPrimitives.ReadInt32LittleEndian(bytes[KindAt..]);
        int length = BinaryPrimitives.ReadInt32LittleEndian(bytes[ReasonLengthAt..]);
        if (length is > 0 and <= Length - ReasonAt)
            reason = Encoding.UTF8.GetString(bytes.Slice(ReasonAt, length));
        return kind is (int)LastWordKind.Written or (int)LastWordKind.Lost ? (LastWordKind)kind : LastWordKind.None;
    }

    /// <summary>
    /// Whether the memory of another process says that it serves another mount than this one: the number of a session
    /// that has ended may be this mount's by now.
    /// </summary>
    /// <param name="descriptor">See <see cref="Open"/>.</param>
    /// <param name="mount">A mount.</param>
    public static bool Denies(int descriptor, MountEntry mount)
    {
        Span<byte> bytes = stackalloc byte[Length];
        if (LinuxFile.Read(descriptor, bytes, 0) < Length || BinaryPrimitives.ReadInt64LittleEndian(bytes) != Magic)
            return false;
        int session = BinaryPrimitives.ReadInt32LittleEndian(bytes[SessionAt..]);
        long source = BinaryPrimitives.ReadInt64LittleEndian(bytes[SourceAt..]);
        return session >= 0 && source != 0 && (session != mount.Minor || source != HashOf(mount.Source));
    }

    /// <inheritdoc/>
    public void Dispose() => _page.Dispose();

    /// <summary>FNV-1a of the characters; never 0.</summary>
    private static long HashOf(string source)
    {
        ulong hash = 0xcbf29ce484222325;
        foreach (char character in source)
            hash = (hash ^ character) * 0x100000001b3;
        return hash == 0 ? 1 : (long)hash;
    }
}
