// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Fuse.Server;

/// <summary>Threads that take requests from the kernel and see to it that each is answered.</summary>
internal interface IRequestLoop : IDisposable
{
    /// <summary>What they have done and are doing. Any thread.</summary>
    FuseActivity Activity { get; }

    /// <summary>
    /// Makes those who wait for requests look whether the server ends. One may just be on its way into the wait, and so
    /// this is called again until all have ended.
    /// </summary>
    void Interrupt();
}
