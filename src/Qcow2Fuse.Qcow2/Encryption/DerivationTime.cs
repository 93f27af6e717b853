// SPDX-License-Identifier: MIT
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Qcow2.Encryption;

/// <summary>
/// How long derivations of keys will take, before they are begun: an image says how many rounds there are, and nothing
/// stops one under way.
/// </summary>
/// <param name="hash">The hash of all derivations.</param>
/// <param name="most">Processor time for all of them together.</param>
internal sealed class DerivationTime(CryptoHash hash, TimeSpan most)
{
    private const int FirstRounds = 1000;
    private static readonly TimeSpan Enough = TimeSpan.FromMilliseconds(2);

    private double? _secondsPerRound;

    /// <summary>Processor time of what was admitted so far.</summary>
    public TimeSpan Taken { get; private set; }

    /// <summary>How long a derivation takes.</summary>
    /// <param name="rounds">Rounds of PBKDF2.</param>
    /// <param name="keyBytes">Bytes of the key: each hash's worth of them is derived by itself.</param>
    public TimeSpan Of(long rounds, int keyBytes)
    {
        double blocks = Math.Ceiling((double)keyBytes / hash.Size);
        double seconds = rounds * blocks * (_secondsPerRound ??= Measure());
        return TimeSpan.FromSeconds(Math.Min(seconds, TimeSpan.MaxValue.TotalSeconds / 2));
    }

    /// <summary>Counts a time, if it fits into what is left.</summary>
    public bool Admits(TimeSpan time)
    {
        if (time > most - Taken)
            return false;
        Taken += time;
        return true;
    }

    private double Measure()
    {
        using SecretMemory key = new(hash.Size);
        for (int rounds = FirstRounds; ; rounds *= 4)
        {
            TimeSpan before = ThreadClock.Now;
            hash.DeriveKey("passphrase"u8, "a salt that is 32 bytes long...."u8, rounds, key.Span);
            TimeSpan taken = ThreadClock.Now - before;
            if (taken >= Enough || rounds > LuksHeader.IterationsMax / 4)
                return taken.TotalSeconds / rounds;
        }
    }
}
