// SPDX-License-Identifier: MIT
using Qcow2Fuse.Fuse.Abi;
using Qcow2Fuse.Fuse.Transport;

namespace Qcow2Fuse.Fuse.Session;

/// <summary>Requests that are one transfer between their payload and a file of the host.</summary>
/// <param name="session">Whose requests they are.</param>
/// <param name="fileSystem">Knows where their bytes are.</param>
internal sealed unsafe class TransferRequests(FuseSession session, IFuseFileSystem fileSystem)
{
    /// <summary>
    /// Begins the request of <paramref name="length"/> bytes in a slot as a transfer, if it is a READ or WRITE and the
    /// file system knows the place of its bytes. Waits for nothing. Nothing has happened where it returns false, and
    /// nothing that the kernel could see where it returns true: <see cref="FuseSession.Dispatch"/> can still serve the
    /// request.
    /// </summary>
    /// <param name="slot">The slot.</param>
    /// <param name="length">Bytes of the request.</param>
    /// <param name="transfer">What becomes of it.</param>
    /// <param name="most">Most bytes to transfer.</param>
    public bool TryBegin(FuseSlot slot, int length, FuseTransfer transfer, int most)
    {
        FuseInHeader* header = (FuseInHeader*)slot.Request;
        bool isWrite = header->Opcode == FuseOpcode.Write;
        if ((!isWrite && header->Opcode != FuseOpcode.Read) || header->Length != (uint)length || !session.IsInitialised)
            return false;

        // Everything out of the ordinary is left to the usual way, which has the answers.
        int body = length - FuseAbi.InHeaderSize - FuseOpcodes.ArgumentsSize(header->Opcode);
        if (body < 0 || header->TotalExtensionLength != 0)
            return false;
        FuseReadIn* arguments = (FuseReadIn*)(slot.Request + FuseAbi.InHeaderSize);
        uint size = arguments->Size;
        bool fits = isWrite ? size == (uint)body && body <= session.MaxWrite : size <= (uint)slot.PayloadCapacity;
        fits &= !isWrite || FileRequests.KindOf((FuseWriteIn*)arguments) == FuseWriteKind.Plain;
        if (!fits || size == 0 || size > (uint)most || !FuseReply.IsRange(arguments->Offset, size))
            return false;

        transfer.IsWrite = isWrite;
        transfer.Length = (int)size;
        transfer.IsCached = false;
        try
        {
            return fileSystem.TryBeginTransfer(header->Node, arguments->Handle, (long)arguments->Offset, transfer);
        }
        catch (Exception error)
        {
            session.Report(*header, error);
            return false;
        }
    }

    /// <summary>Ends a transfer that moved all its bytes, and builds the reply; returns its length.</summary>
    public int Complete(FuseSlot slot, FuseTransfer transfer)
    {
        FuseInHeader header = *(FuseInHeader*)slot.Request;
        int result;
        try
        {
            fileSystem.EndTransfer(transfer, isDone: true);
            result = transfer.IsWrite
                ? FuseReply.Answer(slot, new FuseWriteOut { Size = (uint)transfer.Length }) : transfer.Length;
        }
        catch (Exception error)
        {
            result = -session.Report(header, error);
        }

        return FuseReply.Finish(slot, header.Unique, result);
    }

    /// <summary>Ends a transfer that failed or stopped half-way: the request is to be dispatched.</summary>
    public void Abandon(FuseSlot slot, FuseTransfer transfer)
    {
        try
        {
            fileSystem.EndTransfer(transfer, isDone: false);
        }
        catch (Exception error)
        {
            session.Report(*(FuseInHeader*)slot.Request, error);
        }
    }
}
