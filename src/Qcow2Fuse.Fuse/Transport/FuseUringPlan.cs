// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Uring;

namespace Qcow2Fuse.Fuse.Transport;

/// <summary>Whether a session can have rings, and which.</summary>
internal static class FuseUringPlan
{
    private const string Parameter = "/sys/module/fuse/parameters/enable_uring";
    private const int EntriesWanted = 96;
    private const int EntriesMin = 4;
    private const int EntriesMax = 48;

    /// <summary>
    /// Makes the rings of a session: one for each processor that runs, and one for all those that do not. See
    /// <see cref="IFuseTransport.CreateRings"/>.
    /// </summary>
    public static IReadOnlyList<IFuseRing> Create(int session, int payloadCapacity, out string refusal)
    {
        List<IFuseRing> rings = [];
        try
        {
            refusal = FindRefusal(session);
            if (refusal.Length > 0)
                return [];

            int queues = Processors.Possible().Count;
            int[] running = [.. Processors.Online().Where(processor => processor < queues)];
            int each = EntriesPerProcessor(running.Length);
            foreach (int processor in running)
            {
                rings.Add(new FuseUring(
                    session, processor, [.. Enumerable.Repeat(processor, each)], payloadCapacity));
            }

            int[] others = [.. Enumerable.Range(0, queues).Except(running)];
            if (others.Length > 0)
                rings.Add(new FuseUring(session, processor: null, others, payloadCapacity));
            return rings;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or FormatException
            or OutOfMemoryException)
        {
            foreach (IFuseRing ring in rings)
                ring.Dispose();
            refusal = error.Message;
            return [];
        }
    }

    /// <summary>
    /// Entries for each processor. An entry takes memory once a request has needed it, as much as the largest had data,
    /// which bounds them on small machines; on large ones a queue still needs some.
    /// </summary>
    /// <param name="processors">Processors that run.</param>
    public static int EntriesPerProcessor(int processors) =>
        Math.Clamp(EntriesWanted / Math.Max(processors, 1), EntriesMin, EntriesMax);

    /// <summary>What a negated error number of the first steps means, for people.</summary>
    public static string Describe(int result) => -result switch
    {
        Errno.ENOSYS => "this kernel has no io_uring",
        Errno.EPERM or Errno.EACCES => "io_uring is forbidden to this process",
        Errno.EOPNOTSUPP => $"{Parameter} is N",
        Errno.EINVAL => "this kernel's io_uring is too old",
        _ => $"io_uring: {Errno.Text(-result)}",
    };

    private static string FindRefusal(int session)
    {
        // Where sysfs is hidden the kernel itself is asked, below.
        if (File.Exists(Parameter))
        {
            if (!File.ReadAllText(Parameter).StartsWith('Y'))
                return $"{Parameter} is N";
        }
        else if (Directory.Exists("/sys/module/fuse"))
        {
            return "this kernel has no FUSE over io_uring";
        }

        // On a thread of its own: the kernel gives one that asks too early a helper for the rest of its life.
        int result = 0;
        Thread thread = new(() => result = FuseUring.Probe(session)) { IsBackground = true, Name = "fuse-probe" };
        thread.Start();
        thread.Join();
        return result < 0 ? Describe(result) : "";
    }
}
