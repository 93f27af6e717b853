// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>
/// The protocol's state for one mount, and the place where requests become calls of a file system. No request,
/// however malformed, and no exception of the file system ends a session.
/// </summary>
public sealed unsafe class FuseSession
{
    /// <summary>Bytes from which on it may take long to zero or to copy a range.</summary>
    private const ulong FarFrom = 1 << 30;

    private readonly IFuseFileSystem _fileSystem;
    private readonly FuseServerOptions _options;
    private readonly FuseCalls _calls = new();

    private readonly FileRequests _files;
    private readonly NodeRequests _nodes;
    private FuseAgreement _agreement;
    private volatile bool _initialised;

    /// <summary>Begins a session; the first request it takes is INIT.</summary>
    public FuseSession(IFuseFileSystem fileSystem, FuseServerOptions options)
    {
        bool wholePages = options.MaxWrite % FuseSlot.PageSize == 0;
        if (!wholePages || options.MaxWrite is < FuseSlot.PageSize or > 1 << 20)
            throw new ArgumentException("MaxWrite is not a multiple of 4096 from 4096 to 1 MiB", nameof(options));
        if (options.MaxBackground is < 1 or > ushort.MaxValue)
            throw new ArgumentException("MaxBackground is not from 1 to 65535", nameof(options));
        _fileSystem = fileSystem;
        _options = options;
        _files = new FileRequests(fileSystem, options.OnUnused);
        _nodes = new NodeRequests(fileSystem, options.CacheTimeout);
        Transfers = new TransferRequests(this, fileSystem);
        if (options.Resumption is { } known)
            Agree(new FuseAgreement(known.Minor, (FuseInitFlags)known.Features, known.MaxWrite));
    }

    /// <summary>Whether INIT has been answered.</summary>
    public bool IsInitialised => _initialised;

    /// <summary>The protocol's minor version in use, 31 to 45; 0 before INIT.</summary>
    public int ProtocolMinor => (int)_agreement.Minor;

    /// <summary>Largest write in bytes that was agreed upon; 0 before INIT.</summary>
    public int MaxWrite => _agreement.MaxWrite;

    /// <summary>What another process needs to go on with this session. After INIT.</summary>
    public FuseResumption Resumption => new(_agreement.Minor, (ulong)_agreement.Flags, _agreement.MaxWrite);

    /// <summary>Bytes of data a worker's buffers have to hold.</summary>
    public int PayloadCapacity =>
        Math.Max(Math.Max(_options.MaxWrite, _options.Resumption?.MaxWrite ?? 0), 2 * FuseSlot.PageSize);

    /// <summary>Files that are open; directories are not counted.</summary>
    public int OpenFiles => _files.OpenFiles;

    /// <summary>Requests that are one transfer.</summary>
    internal TransferRequests Transfers { get; }

    internal FuseInitFlags Features => _agreement.Flags;

    /// <summary>Whether there are rings to offer to the kernel; settled before INIT.</summary>
    internal bool HasRings { get; set; }

    /// <summary>
    /// Serves the request of <paramref name="length"/> bytes in a slot and builds the reply there. May be called
    /// from any number of threads, each with its own slot.
    /// </summary>
    /// <returns>Length of the reply in bytes, or 0 where none is due.</returns>
    public int Dispatch(FuseSlot slot, int length)
    {
        // Without a whole header it is not known to whom a reply would go.
        if (length < FuseAbi.InHeaderSize)
            return 0;
        FuseInHeader header = *(FuseInHeader*)slot.Request;
        if (FuseOpcodes.IsUnanswered(header.Opcode))
        {
            TakeUnanswered(slot, header, length);
            return 0;
        }

        int result;
        try
        {
            FuseCall call = slot.Call ??= _calls.Create();
            _calls.Begin(call, header.Unique);

            // The handlers are called here, so that a request has no longer a way than it needs.
            result = Check(slot, length, out FuseRequest request);
            result = result < 0 ? result : header.Opcode switch
            {
                FuseOpcode.Read => _files.Read(slot, request),
                FuseOpcode.Write => _files.Write(slot, request),
                FuseOpcode.Fsync => _files.Fsync(request),
                FuseOpcode.Lookup => _nodes.Lookup(slot, request),
                FuseOpcode.GetAttr => _nodes.GetAttributes(slot, request),
                FuseOpcode.SetAttr => _nodes.SetAttributes(slot, request),
                FuseOpcode.Open => _files.Open(slot, request),
                FuseOpcode.Release => _files.Release(request),
                FuseOpcode.Flush => _files.Flush(request),
                FuseOpcode.Fallocate => _files.Allocate(request),
                FuseOpcode.Lseek => _files.Seek(slot, request),
                FuseOpcode.CopyFileRange or FuseOpcode.CopyFileRange64 => _files.CopyRange(slot, request),
                FuseOpcode.StatFs => _nodes.GetStatistics(slot, request),
                FuseOpcode.OpenDir => _nodes.OpenDirectory(slot, request),
                FuseOpcode.ReadDir => _nodes.ReadDirectory(slot, request),
                FuseOpcode.ReleaseDir => _nodes.ReleaseDirectory(request),
                FuseOpcode.GetXattr => _nodes.GetExtendedAttribute(slot, request),
                FuseOpcode.ListXattr => _nodes.ListExtendedAttributes(slot, request),
                FuseOpcode.Init => Initialise(slot, request),
                FuseOpcode.Destroy => 0,
                _ => -FuseOpcodes.UnservedErrno(header.Opcode),
            };
        }
        catch (Exception error)
        {
            result = -Report(header, error);
        }
        finally
        {
            slot.Call?.End();
        }

        return FuseReply.Finish(slot, header.Unique, result);
    }

    /// <summary>Takes a request that gets no reply.</summary>
    private void TakeUnanswered(FuseSlot slot, in FuseInHeader header, int length)
    {
        if (header.Opcode == FuseOpcode.Interrupt && length >= FuseAbi.InHeaderSize + sizeof(FuseInterruptIn))
            Interrupt(header, ((FuseInterruptIn*)(slot.Request + FuseAbi.InHeaderSize))->Unique);
    }

    /// <summary>Checks lengths and state: 0 and the request, or a negated error number.</summary>
    private int Check(FuseSlot slot, int length, out FuseRequest request)
    {
        request = default;
        FuseInHeader* header = (FuseInHeader*)slot.Request;
        if (header->Length != (uint)length)
            return -Errno.EINVAL;
        if (_initialised == (header->Opcode == FuseOpcode.Init))
            return -Errno.EIO;

        int body = length - FuseAbi.InHeaderSize;
        if (_agreement.Minor >= FuseAbi.ExtensionsMinorVersion)
            body -= header->TotalExtensionLength * 8;
        int arguments = FuseOpcodes.ArgumentsSize(header->Opcode);
        if (body < arguments)
            return -Errno.EINVAL;
        request = new FuseRequest(header, arguments, body);
        return 0;
    }

    /// <summary>
    /// Whether the request in a slot, which is short, may take seconds, as the file system says.
    /// </summary>
    internal bool MayTakeLong(FuseSlot slot, int length)
    {
        FuseInHeader* header = (FuseInHeader*)slot.Request;
        return length is >= FuseAbi.InHeaderSize and <= FuseSlot.PageSize && _initialised
            && (GoesFar(header, length)
                || (header->Opcode == FuseOpcode.Open && _fileSystem.MayOpenLong(header->Node))
                || (header->Opcode is FuseOpcode.Lookup or FuseOpcode.OpenDir
                        or FuseOpcode.ReadDir or FuseOpcode.Read or FuseOpcode.SetAttr
                    && _fileSystem.MayTakeLong(header->Node)));
    }

    /// <summary>Builds the reply of an error number to the request in a slot; returns its length.</summary>
    internal static int Refuse(FuseSlot slot, int errno) =>
        FuseReply.Finish(slot, ((FuseInHeader*)slot.Request)->Unique, -errno);

    /// <summary>Whether a request changes much of a file at once.</summary>
    private static bool GoesFar(FuseInHeader* header, int length)
    {
        byte* arguments = (byte*)header + FuseAbi.InHeaderSize;
        return header->Opcode switch
        {
            FuseOpcode.Fallocate => length >= FuseAbi.InHeaderSize + sizeof(FuseFallocateIn)
                && ((FuseFallocateIn*)arguments)->Length >= FarFrom,
            FuseOpcode.CopyFileRange or FuseOpcode.CopyFileRange64 =>
                length >= FuseAbi.InHeaderSize + sizeof(FuseCopyFileRangeIn)
                && ((FuseCopyFileRangeIn*)arguments)->Length >= FarFrom,
            _ => false,
        };
    }

    private void Interrupt(in FuseInHeader header, ulong unique)
    {
        try
        {
            _calls.Interrupt(unique);
        }
        catch (OutOfMemoryException error)
        {
            // The request goes on to its end.
            Report(header, error);
        }
    }

    /// <summary>Bytes of buffers that a request of those which may take long needs: whole pages.</summary>
    internal static int PayloadOf(FuseSlot slot, int length)
    {
        const int Least = 2 * FuseSlot.PageSize;
        FuseInHeader* header = (FuseInHeader*)slot.Request;
        if (header->Opcode is not (FuseOpcode.Read or FuseOpcode.ReadDir)
            || length < FuseAbi.InHeaderSize + sizeof(FuseReadIn))
        {
            return Least;
        }

        uint size = ((FuseReadIn*)(slot.Request + FuseAbi.InHeaderSize))->Size;
        int most = (int)Math.Min(size, (uint)slot.PayloadCapacity);
        return Math.Max(Least, (most + FuseSlot.PageSize - 1) & -FuseSlot.PageSize);
    }

    /// <summary>A slot is not used any more.</summary>
    internal void Forget(FuseSlot slot)
    {
        if (slot.Call is { } call)
            _calls.Remove(call);
    }

    private int Initialise(FuseSlot slot, in FuseRequest request)
    {
        FuseInitIn init = default;
        int known = Math.Min(sizeof(FuseInitIn), FuseInitIn.LegacySize + request.Payload.Length);
        new ReadOnlySpan<byte>(request.Arguments, known).CopyTo(new Span<byte>(&init, sizeof(FuseInitIn)));
        bool tooOld = init.Major < FuseAbi.MajorVersion
            || (init.Major == FuseAbi.MajorVersion && init.Minor < FuseAbi.OldestMinorVersion);
        if (tooOld)
            return -Errno.EPROTO;

        FuseAgreement? agreement = FuseNegotiation.Agree(init, _options, HasRings, out FuseInitOut reply);
        if (agreement is not null)
            Agree(agreement.Value);
        return FuseReply.Answer(slot, reply);
    }

    private void Agree(in FuseAgreement agreement)
    {
        _agreement = agreement;
        _files.MaxWrite = agreement.MaxWrite;
        _initialised = true;
    }

    /// <summary>Has an exception of the file system mapped to an error number, and told.</summary>
    /// <returns>The error number, above 0.</returns>
    internal int Report(in FuseInHeader header, Exception error)
    {
        int errno = Errno.EIO;
        try
        {
            int mapped = _options.MapException?.Invoke(error) ?? Errno.EIO;
            errno = mapped is > 0 and <= FuseAbi.MaxErrno ? mapped : Errno.EIO;
            _options.OnFailure?.Invoke(new FuseFailure(header.Opcode.ToString(), header.Node, errno, error));
        }
        catch (Exception)
        {
            // A log that cannot be written must not cost the reply, nor the worker its life.
            return errno;
        }

        return errno;
    }
}
