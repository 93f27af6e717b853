// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing.Model;

/// <summary>Draws steps: places where something changes are more likely than others.</summary>
public sealed class ModelDraw
{
    private const int RangeMax = 256 << 10;

    private readonly ModelOperation[] _urn;
    private readonly int _unit;
    private readonly int _cluster;
    private readonly long _table;
    private long _last;

    /// <summary>Draws steps for a case whose disk has a size.</summary>
    public ModelDraw(ModelCase one, long size, SeededRandom random)
    {
        Random = random;
        Size = size;
        FirstSize = size;
        _cluster = one.ClusterSize;
        _unit = one.ExtendedL2 ? _cluster / 32 : _cluster;
        _table = (long)_cluster * (_cluster / (one.ExtendedL2 ? 16 : 8));
        _urn = [.. ModelOperation.All.SelectMany(operation => Enumerable.Repeat(operation, operation.Weight))];
    }

    /// <summary>Where all numbers come from.</summary>
    public SeededRandom Random { get; }

    /// <summary>The size of the disk if every step before this one works; resizing steps change it.</summary>
    public long Size { get; set; }

    /// <summary>The size of the disk at the start.</summary>
    public long FirstSize { get; }

    /// <summary>The steps of a case.</summary>
    public ModelStep[] Steps(int count)
    {
        ModelStep[] steps = new ModelStep[count];
        for (int i = 0; i < count; i++)
        {
            ModelOperation operation = Random.Pick<ModelOperation>(_urn);
            (long offset, long length) = operation.Draw(this);
            steps[i] = new ModelStep(i + 1, operation.Name, offset, length);
        }

        return steps;
    }

    /// <summary>A range of the disk, at least one byte long.</summary>
    public (long Offset, long Length) Range()
    {
        long offset = Math.Clamp(Place(), 0, Size - 1);
        long length = Random.Below(100) switch
        {
            < 20 => 1 + Random.Below(600),
            < 40 => 512L * (1 + Random.Below(8)),
            < 60 => _unit,
            < 75 => (long)_unit * (1 + Random.Below(6)),
            < 85 => _cluster,
            < 97 => 1 + Random.Below(2L * _cluster),
            _ => 1 + Random.Below((long)RangeMax),
        };
        length = Math.Min(length, Math.Min(Size - offset, Math.Max(RangeMax, _cluster)));
        _last = Random.Chance(50) ? offset : offset + length;
        return (offset, length);
    }

    private long Place()
    {
        long any = Random.Below(Size);
        return Random.Below(100) switch
        {
            < 20 => any,
            < 45 => any / _unit * _unit,
            < 60 => any / _cluster * _cluster,
            < 70 => (any / _cluster * _cluster) - 1 - Random.Below(600),
            < 78 => (any / _table * _table) + Random.Below(3 * _unit) - _unit,
            < 84 => Size - 1 - Random.Below(2 * _cluster),
            _ => _last + Random.Below(3L) - 1,
        };
    }
}
