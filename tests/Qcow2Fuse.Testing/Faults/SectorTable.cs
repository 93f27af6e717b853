// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;

namespace Qcow2Fuse.Testing.Faults;

/// <summary>
/// Gives every distinct content of a 512-byte sector a small number, so that images and their crash states are
/// arrays of numbers and comparing sectors is comparing numbers. Number 0 is the sector of zeroes.
/// </summary>
public sealed class SectorTable
{
    /// <summary>Bytes in a sector: what a disk writes wholly or not at all.</summary>
    public const int SectorSize = 512;

    /// <summary>The number of the content that is all zeroes.</summary>
    public const int Zero = 0;

    private const int SectorsPerChunk = 256;

    private readonly List<byte[]> _chunks = [];
    private readonly Dictionary<ulong, int> _idByHash = [];
    private readonly Lock _lock = new();
    private int _count;

    /// <summary>Creates a table that holds the sector of zeroes only.</summary>
    public SectorTable()
    {
        Append(new byte[SectorSize]);
    }

    /// <summary>How many distinct contents there are.</summary>
    public int Count
    {
        get
        {
            lock (_lock)
                return _count;
        }
    }

    /// <summary>The number of <paramref name="content"/>, which is 512 bytes long.</summary>
    public int Intern(ReadOnlySpan<byte> content)
    {
        if (content.Length != SectorSize)
            throw new ArgumentException("not one sector", nameof(content));
        if (content.IndexOfAnyExcept((byte)0) < 0)
            return Zero;

        ulong hash = Hash(content);
        lock (_lock)
        {
            while (_idByHash.TryGetValue(hash, out int id))
            {
                if (Content(id).SequenceEqual(content))
                    return id;
                hash++;
            }

            int fresh = Append(content);
            _idByHash.Add(hash, fresh);
            return fresh;
        }
    }

    /// <summary>The 512 bytes of content number <paramref name="id"/>.</summary>
    public ReadOnlySpan<byte> Content(int id) =>
        _chunks[id / SectorsPerChunk].AsSpan(id % SectorsPerChunk * SectorSize, SectorSize);

    private static ulong Hash(ReadOnlySpan<byte> content)
    {
        ulong a = 0x9E3779B97F4A7C15, b = 0xC2B2AE3D27D4EB4F;
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(content);
        for (int i = 0; i < words.Length; i += 2)
        {
            a = (a ^ words[i]) * 0xFF51AFD7ED558CCD;
            b = (b ^ words[i + 1]) * 0xC4CEB9FE1A85EC53;
            a ^= a >> 32;
            b ^= b >> 29;
        }

        return a ^ (b * 0x9E3779B97F4A7C15) ^ (b >> 31);
    }

    private int Append(ReadOnlySpan<byte> content)
    {
        if (_count % SectorsPerChunk == 0)
            _chunks.Add(GC.AllocateUninitializedArray<byte>(SectorsPerChunk * SectorSize));
        content.CopyTo(_chunks[^1].AsSpan(_count % SectorsPerChunk * SectorSize));
        return _count++;
    }
}
