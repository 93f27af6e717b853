// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Block.Chain;

namespace Qcow2Fuse.Testing.Model;

/// <summary>
/// The image a case begins with, made by qemu-img and qemu-io alone. What the axes leave open follows from the seed:
/// size, content, format of the backing file, raw data files, a snapshot, compression type, cache sizes.
/// </summary>
public sealed class ModelImage
{
    private const string FirstSnapshot = "first";

    private readonly SeededRandom _random;
    private readonly List<string> _commands = [];

    private ModelImage(ModelCase one, TempDirectory directory, long sizeMax, DiscardMode? discard)
    {
        Case = one;
        _random = new SeededRandom(one.Seed);
        Size = Math.Min(DrawSize(), sizeMax);
        DiscardMode unmapping = SeededRandom.Mix(one.Seed + 1) % 3 == 0 ? DiscardMode.NoUnref : DiscardMode.Unmap;
        DiscardMode drawn = _random.Chance(80) ? unmapping : DiscardMode.Ignore;
        Discard = discard ?? drawn;
        SmallCaches = _random.Chance(50);
        StepCount = one.ClusterSize > 1 << 20 ? 40 + _random.Below(60) : 100 + _random.Below(401);
        byte[]? backing = MakeBacking(directory);
        Content = new byte[Size];
        backing?.AsSpan(0, (int)Math.Min(backing.Length, Size)).CopyTo(Content);
        MakeImage(directory);
        Files = ModelFiles.Load(directory, backing, isChain: SeededRandom.Mix(one.Seed) % 2 == 0);
    }

    /// <summary>The case.</summary>
    public ModelCase Case { get; }

    /// <summary>The size of the disk in bytes.</summary>
    public long Size { get; }

    /// <summary>The files; to be copied before they are used.</summary>
    public ModelFiles Files { get; }

    /// <summary>What the disk holds.</summary>
    public byte[] Content { get; }

    /// <summary>The snapshots in it: name, and what the disk held.</summary>
    public IReadOnlyDictionary<string, byte[]> Snapshots { get; private set; } = new Dictionary<string, byte[]>();

    /// <summary>What discards do.</summary>
    public DiscardMode Discard { get; }

    /// <summary>Whether the metadata caches are as small as they can be.</summary>
    public bool SmallCaches { get; }

    /// <summary>How many operations the case has, at most 500.</summary>
    public int StepCount { get; }

    /// <summary>
    /// Makes the image of a case, with a disk of at most so many bytes, a multiple of 512, and perhaps a chosen way to
    /// discard.
    /// </summary>
    public static ModelImage Create(ModelCase one, long sizeMax = long.MaxValue, DiscardMode? discard = null)
    {
        using TempDirectory directory = new();
        try
        {
            return new ModelImage(one, directory, sizeMax, discard);
        }
        catch (InvalidOperationException failure)
        {
            throw new InvalidOperationException($"{one}: qemu does not make this image", failure);
        }
    }

    private long DrawSize()
    {
        (long min, long max) = Case.ClusterSize switch
        {
            512 => (64L << 10, 1L << 20),
            4096 => (512L << 10, 5L << 20),
            65536 => (1L << 20, 8L << 20),
            _ when _random.Chance(10) => (6L << 20, 48L << 20),
            _ => (5L << 20, 15L << 20),
        };
        long size = (min + _random.Below(max - min)) / 512 * 512;
        return _random.Chance(40) ? size / Case.ClusterSize * Case.ClusterSize : size;
    }

    private byte[]? MakeBacking(TempDirectory directory)
    {
        if (Case.Backing == ModelBacking.None)
            return null;
        long length = Case.Backing == ModelBacking.Shorter
            ? Size - (512 * (1 + _random.Below(Size / 1024)))
            : Size + (512 * (1 + _random.Below(Size / 2048)));
        byte[] content = new byte[length];
        long piece = Math.Max(4096, Case.ClusterSize / 2);
        for (long at = 0; at < length; at += piece)
        {
            if (_random.Chance(70))
                Stamp.Fill(content.AsSpan((int)at, (int)Math.Min(piece, length - at)), at, Tag(1));
        }

        string path = directory.File(ModelFiles.BackingName);
        BackingFormat = _random.Chance(30) ? "qcow2" : "raw";
        string raw = BackingFormat == "raw" ? path : path + ".raw";
        File.WriteAllBytes(raw, content);
        if (BackingFormat == "qcow2")
            QemuTools.Img("convert", "-f", "raw", "-O", "qcow2", raw, path);
        return content;
    }

    private string BackingFormat { get; set; } = string.Empty;

    private void MakeImage(TempDirectory directory)
    {
        // qemu looks for a relative data file in the working directory.
        const string Image = ModelFiles.ImageName;
        List<string> arguments = ["create", "-q", "-f", "qcow2", "-o", Options()];
        if (Case.Backing != ModelBacking.None)
            arguments.AddRange(["-b", ModelFiles.BackingName, "-F", BackingFormat]);
        arguments.AddRange([Image, Size.ToString(CultureInfo.InvariantCulture)]);
        ProcessRunner.Run("qemu-img", arguments, directory.Path).ShouldSucceed();

        // A snapshot doubles the refcount of a cluster that several compressed ones share.
        bool canCount = Case.RefcountBits > (Case.Compressed ? 4 : 1);
        bool snapshot = canCount && !Case.DataFile && _random.Chance(30);
        Fill(directory);
        ProcessRunner.Run(
            "qemu-io", [.. _commands.SelectMany(command => new[] { "-c", command }), "-f", "qcow2", Image],
            directory.Path).ShouldSucceed();
        if (!snapshot)
            return;
        QemuTools.Img("snapshot", "-c", FirstSnapshot, directory.File(Image));
        Snapshots = new Dictionary<string, byte[]> { [FirstSnapshot] = [.. Content] };
    }

    private string Options()
    {
        List<string> options =
        [
            Case.Version == 2 ? "compat=0.10" : "compat=1.1",
            string.Create(CultureInfo.InvariantCulture, $"cluster_size={Case.ClusterSize}"),
            string.Create(CultureInfo.InvariantCulture, $"refcount_bits={Case.RefcountBits}"),
        ];
        if (Case.ExtendedL2)
            options.Add("extended_l2=on");
        if (Case.DataFile)
            options.Add($"data_file={ModelFiles.DataName}");
        if (Case.DataFile && Case.Backing == ModelBacking.None && _random.Chance(50))
            options.Add("data_file_raw=on");
        if (Case.Version == 3 && _random.Chance(20))
            options.Add("lazy_refcounts=on");
        if (Case.Version == 3 && Case.Compressed && _random.Chance(40))
            options.Add("compression_type=zstd");
        if (Case.Backing == ModelBacking.None && !Case.ExtendedL2 && !Case.Compressed && _random.Chance(20))
            options.Add("preallocation=metadata");
        return string.Join(',', options);
    }

    /// <summary>
    /// Content of all sorts: compressed clusters first, as qemu compresses only what is not allocated, then plain data
    /// and zeroes with and without a cluster, also over some of them.
    /// </summary>
    private void Fill(TempDirectory directory)
    {
        int cluster = Case.ClusterSize;
        long clusters = Size / cluster;
        int most = cluster > 1 << 20 ? 3 : 40;
        for (long at = 0; Case.Compressed && at < clusters; at++)
        {
            bool isNearby = clusters < 64 || at % 64 < 24;
            if (isNearby && _random.Chance(clusters < 8 ? 60 : 25) && _commands.Count < most)
                Write(directory, at * cluster, cluster, "-c", compressible: true);
        }

        int fills = 4 + _random.Below(8);
        for (int i = 0; i < fills; i++)
        {
            long count = 1 + _random.Below(Math.Clamp(clusters / 8, 1, 64));
            long offset = _random.Below(Math.Max(1, clusters - count)) * cluster;
            if (_random.Chance(30))
                offset += 512L * _random.Below(cluster / 512);
            int length = (int)Math.Min(count * cluster, Math.Min(Size - offset, 2 << 20));
            if (length > 0 && _random.Chance(25))
                Zero(offset, length);
            else if (length > 0)
                Write(directory, offset, length, "", compressible: false);
        }
    }

    private void Zero(long offset, int length)
    {
        string how = _random.Chance(50) ? "-z -u" : "-z";
        _commands.Add(string.Create(CultureInfo.InvariantCulture, $"write -q {how} {offset} {length}"));
        Content.AsSpan((int)offset, length).Clear();
    }

    private void Write(TempDirectory directory, long offset, int length, string how, bool compressible)
    {
        byte[] bytes = compressible ? Compressible(offset, length) : Stamp.Bytes(offset, length, Tag(2));
        string file = directory.File(string.Create(CultureInfo.InvariantCulture, $"fill{_commands.Count}"));
        File.WriteAllBytes(file, bytes);
        _commands.Add(string.Create(
            CultureInfo.InvariantCulture, $"write -q {how} -s {file} {offset} {length}"));
        bytes.CopyTo(Content.AsSpan((int)offset));
    }

    /// <summary>Bytes of which each sector is different and repeats one word; some stretches are random.</summary>
    private byte[] Compressible(long offset, int length)
    {
        byte[] bytes = new byte[length];
        for (int at = 0; at < length; at += 512)
        {
            Span<byte> sector = bytes.AsSpan(at, Math.Min(512, length - at));
            Stamp.Fill(sector, offset + at, Tag(3));
            for (int i = _random.Chance(90) ? 8 : 300; i < sector.Length; i++)
                sector[i] = sector[i - 8];
        }

        return bytes;
    }

    private ulong Tag(int number) => (Case.Seed << 16) + 0xF000 + (ulong)number;
}
