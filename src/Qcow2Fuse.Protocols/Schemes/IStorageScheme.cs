// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;

namespace Qcow2Fuse.Protocols.Schemes;

/// <summary>
/// A kind of storage. Names of it begin with <c>SCHEME://</c>; names that begin with no scheme are those of files.
/// </summary>
public interface IStorageScheme
{
    /// <summary>What names begin with.</summary>
    string Name { get; }

    /// <summary>What opens storage of the kind.</summary>
    /// <param name="keeper">Has what an earlier process left open, and is told of what is opened; or null.</param>
    IStorageOpener Opener(FileKeeper? keeper = null);

    /// <summary>
    /// Makes a new empty file, writable and locked as an image that is written. What has the name is emptied once it is
    /// locked.
    /// </summary>
    /// <exception cref="BlockException">It cannot be made, or somebody else uses it.</exception>
    INewFile Create(string name);

    /// <summary>A name as it is used from any directory.</summary>
    string FullName(string name);
}
