// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Protocols.Schemes;

/// <summary>Files and block devices of this host.</summary>
internal sealed class FileScheme : IStorageScheme
{
    private readonly FileStorage _files = new();

    /// <inheritdoc/>
    public string Name => FileStorage.Scheme;

    /// <inheritdoc/>
    public IStorageOpener Opener(FileKeeper? keeper = null) => keeper is null ? _files : new FileStorage(keeper);

    /// <inheritdoc/>
    public INewFile Create(string name) => FileDevice.Create(name, replace: true);

    /// <inheritdoc/>
    public string FullName(string name) => LinuxPath.Full(name);
}
