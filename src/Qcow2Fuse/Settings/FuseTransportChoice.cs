// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Settings;

/// <summary>The way of requests from the kernel to this program.</summary>
internal enum FuseTransportChoice
{
    /// <summary>read(2) and write(2) on /dev/fuse.</summary>
    Fuse,

    /// <summary>io_uring where the kernel offers it, otherwise as <see cref="Fuse"/>.</summary>
    Uring,

    /// <summary>
    /// The better one. That is a question of performance, not of what works: io_uring wins where the image is in the
    /// page cache and with many processes, and loses with one process at a great queue depth on a device. As long as
    /// no measurement tells them apart in advance, this is <see cref="Fuse"/>.
    /// </summary>
    Auto,
}
