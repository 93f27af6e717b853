// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing.Fuse;

/// <summary>
/// The kernel's switch for FUSE over io_uring, held in one position and put back when it is disposed. Only the start of
/// a mount looks at it, so it is held that long and no longer; other tests on the machine wait.
/// </summary>
public sealed class UringSwitch : IDisposable
{
    private const string Parameter = "/sys/module/fuse/parameters/enable_uring";
    private static readonly string LockPath = Path.Combine(Path.GetTempPath(), "qcow2fuse-tests-enable-uring.lock");
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    private readonly FileStream _lock;
    private readonly string _before;

    private UringSwitch(FileStream held, string before)
    {
        _lock = held;
        _before = before;
    }

    /// <summary>Why the switch cannot be set here; empty where it can.</summary>
    public static string Obstacle()
    {
        if (!File.Exists(Parameter))
            return $"{Parameter} does not exist";
        try
        {
            using FileStream file = new(Parameter, FileMode.Open, FileAccess.Write);
            return "";
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return error.Message;
        }
    }

    /// <summary>Skips the calling test where the switch cannot be set, unless all is required.</summary>
    public static void Require()
    {
        string obstacle = Obstacle();
        QemuTools.Require(obstacle.Length == 0, obstacle);
    }

    /// <summary>Turns the switch on or off until it is disposed.</summary>
    public static UringSwitch Hold(bool on)
    {
        FileStream held = Lock();
        try
        {
            string before = File.ReadAllText(Parameter).Trim();
            File.WriteAllText(Parameter, on ? "Y" : "N");
            return new UringSwitch(held, before);
        }
        catch
        {
            held.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        File.WriteAllText(Parameter, _before);
        _lock.Dispose();
    }

    private static FileStream Lock()
    {
        for (DateTime end = DateTime.UtcNow + Patience; ; Thread.Sleep(20))
        {
            try
            {
                return new FileStream(LockPath, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (DateTime.UtcNow < end)
            {
                // Another test holds the switch.
            }
        }
    }
}
